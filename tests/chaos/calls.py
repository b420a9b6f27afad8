"""What a request to the API server is, in words: verb, resource, name. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from support.kube_api import APPLY

WRITES: Final = frozenset({"create", "apply", "patch", "update", "delete"})
_VERBS: Final = {"POST": "create", "PUT": "update", "DELETE": "delete"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request."""

    verb: str
    """list, watch, get, create, apply (server-side), patch, update or delete."""
    resource: str = ""
    """Plural; with its subresource, as in RBAC: `bertdeployments/status`. Empty: not about objects."""
    name: str = ""
    namespace: str = ""

    @property
    def kind(self) -> str:
        """What R7 counts as a kind of request."""
        return f"{self.verb} {self.resource}".strip()

    @property
    def writes(self) -> bool:
        """Whether it changes the world; a Lease is the operator's own pulse and counts for nothing."""
        return self.verb in WRITES and self.resource != "leases"

    @property
    def quiet(self) -> bool:
        """Whether an operator at rest may send it."""
        return self.verb == "watch" or self.resource in ("leases", "")


def named(method: str, path: str, query: Mapping[str, str], content_type: str = "") -> Call:
    """Name a request."""
    parts = [part for part in path.split("/") if part]
    parts = parts[2:] if parts[:1] == ["api"] else parts[3:] if parts[:1] == ["apis"] else []
    namespace = ""
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    if not parts:
        return Call(verb="get")
    resource, name, sub = (*parts, "", "")[:3]
    resource = f"{resource}/{sub}" if sub else resource
    return Call(verb=_verb(method, name, query, content_type), resource=resource, name=name, namespace=namespace)


def _verb(method: str, name: str, query: Mapping[str, str], content_type: str) -> str:
    if method == "PATCH":
        return "apply" if content_type.startswith(APPLY) else "patch"
    if method in _VERBS:
        return _VERBS[method]
    if query.get("watch") in ("true", "1"):
        return "watch"
    return "get" if name else "list"
