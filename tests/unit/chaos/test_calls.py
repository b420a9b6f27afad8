"""Requests are named as RBAC names them."""

import pytest

from chaos.calls import named

BERTS = "/apis/bertops.dev/v1alpha1/namespaces/ns/bertdeployments"


@pytest.mark.parametrize(
    ("method", "path", "query", "kind", "writes", "quiet"),
    [
        ("GET", f"{BERTS}", {"watch": "true"}, "watch bertdeployments", False, True),
        ("GET", "/api/v1/pods", {}, "list pods", False, False),
        ("GET", "/api/v1/namespaces/ns/services/demo", {}, "get services", False, False),
        ("PATCH", f"{BERTS}/demo/status", {}, "apply bertdeployments/status", True, False),
        ("POST", "/apis/batch/v1/namespaces/ns/jobs", {}, "create jobs", True, False),
        ("DELETE", "/api/v1/namespaces/ns/configmaps/c", {}, "delete configmaps", True, False),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l", {}, "update leases", False, True),
        ("GET", "/apis", {}, "get", False, True),
    ],
)
def test_a_request_has_a_name(
    method: str, path: str, query: dict[str, str], kind: str, *, writes: bool, quiet: bool
) -> None:
    call = named(method, path, query, "application/apply-patch+yaml")
    assert (call.kind, call.writes, call.quiet) == (kind, writes, quiet)


def test_a_patch_that_is_no_apply_is_told_apart() -> None:
    assert named("PATCH", f"{BERTS}/demo", {}, "application/merge-patch+json").verb == "patch"
