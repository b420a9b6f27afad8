"""The seam to kopf: mistakes of the installer end in one line, kopf is set up as meant, its watches are tapped."""

import inspect
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kopf
import pytest
from kopf._cogs.clients import watching

from bert_operator import handlers, observe
from bert_operator.cluster.connection import ConfigurationError
from bert_operator.settings import SETTINGS_ENV
from bert_operator.watches import Listing, Watches
from support.objects import an_object

OPERATOR = Path(__file__).parents[3] / "operator"
PLURALS = {
    "bertdeployments": "BertDeployment",
    "bertartifacts": "BertArtifact",
    "deployments": "Deployment",
    "replicasets": "ReplicaSet",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "networkpolicies": "NetworkPolicy",
    "services": "Service",
    "configmaps": "ConfigMap",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "jobs": "Job",
    "pods": "Pod",
}


def test_exactly_the_kinds_that_memory_knows_are_watched() -> None:
    watched = {PLURALS[plural] for _, _, plural in (*handlers.WHOLE, *handlers.CHILDREN)}
    assert watched == set(observe.KINDS)


def configured(*, clusterwide: bool) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.clusterwide = clusterwide
    handlers.configure(settings)
    return settings


def test_kopf_waits_for_no_peers_posts_nothing_and_ends_in_time() -> None:
    settings = configured(clusterwide=True)
    assert settings.peering.standalone
    assert not settings.posting.enabled
    assert max(settings.queueing.error_delays) == 60
    assert settings.process.ultimate_exiting_timeout == 30
    assert settings.watching.inactivity_timeout == 70


@pytest.mark.parametrize("clusterwide", [True, False])
def test_no_right_to_list_namespaces_or_crds_is_needed(*, clusterwide: bool) -> None:
    assert configured(clusterwide=clusterwide).scanning.disabled


def test_only_objects_with_our_label_are_watched_except_those_users_bring() -> None:
    selectors = configured(clusterwide=True).watching.label_selectors
    assert set(selectors.values()) == {"app.kubernetes.io/managed-by=bert-operator"}
    assert len(selectors) == len(handlers.CHILDREN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        ("a: [", "not YAML"),
        ("workers: many", "workers: Input should be a valid integer, unable to parse string as an integer, not 'many'"),
        ("workers: 1", "images: Field required"),
        ("unknown: 1", "unknown: Extra inputs are not permitted, not 1"),
    ],
)
def test_bad_settings_name_the_file_and_the_field_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, message: str
) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(SETTINGS_ENV, str(file))
    with pytest.raises(ConfigurationError) as caught:
        handlers.load_settings()
    assert str(caught.value).startswith(f"settings file {file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_start_with_bad_settings_prints_one_line_and_fails(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(OPERATOR), SETTINGS_ENV: str(tmp_path / "absent")}
    command = [sys.executable, "-m", "kopf", "run", "-A", "-m", "bert_operator.handlers"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 1
    assert done.stderr == f"bert-operator can't start: settings file {tmp_path}/absent: No such file or directory\n"


# --- the tap ------------------------------------------------------------------------------------------------------


class FakeRuntime:
    def __init__(self) -> None:
        self.watches = Watches(lambda: 1.0)
        self.shown: list[str] = []
        self.ended: list[str] = []

    def begin_listing(self, kind: str, namespace: str | None) -> Listing:
        return self.watches.begin(kind, namespace)

    def listed(self, listing: Listing) -> list[dict[str, Any]]:
        return listing.complete()

    def seen(self, obj: dict[str, Any]) -> None:
        self.shown.append(obj["metadata"]["name"])

    def gone(self, obj: dict[str, Any]) -> None:
        self.ended.append(obj["metadata"]["name"])


class Resource:
    def __init__(self, kind: str) -> None:
        self.kind = kind


def scripted(monkeypatch: pytest.MonkeyPatch, *scripts: list[Any]) -> FakeRuntime:
    """Put a stream of our own where kopf's was, and tap it."""
    pending = list(scripts)

    async def stream(*, settings: Any, resource: Any, namespace: Any, operator_pause_waiter: Any) -> AsyncIterator[Any]:  # noqa: ARG001 - kopf's signature
        for event in pending.pop(0):
            yield event

    monkeypatch.setattr(watching, "continuous_watch", stream)
    runtime = FakeRuntime()
    handlers.tap(runtime)  # type: ignore[arg-type]
    return runtime


def stream(kind: str = "Pod") -> AsyncIterator[Any]:
    return watching.continuous_watch(
        settings=None,  # type: ignore[arg-type]
        resource=Resource(kind),  # type: ignore[arg-type]
        namespace=None,
        operator_pause_waiter=None,  # type: ignore[arg-type]
    )


async def drain(kind: str = "Pod") -> list[Any]:
    return [event async for event in stream(kind)]


LISTED = watching.Bookmark.LISTED


def event(event_type: str | None, name: str) -> dict[str, Any]:
    return {"type": event_type, "object": an_object("Pod", name)}


async def test_after_a_relist_vanished_objects_end_as_deleted_before_the_listing_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = [event(None, "a"), event(None, "b"), LISTED, event("ADDED", "c")]
    runtime = scripted(monkeypatch, first, [event(None, "b"), LISTED])
    await drain()
    assert runtime.ended == []
    async for mark in stream():
        assert mark is LISTED
        assert set(runtime.ended) == {"a", "c"}


async def test_everything_reaches_memory_at_once_and_nothing_but_marks_reaches_kopf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In kopf's hands each event costs copies of its object and a task."""
    runtime = scripted(monkeypatch, [event(None, "a"), LISTED, event("ADDED", "b"), event("DELETED", "a")])
    passed = []
    async for mark in stream():
        passed.append(mark)
        assert runtime.shown == ["a"], "what is listed is in memory before the listing ends"
    assert passed == [LISTED]
    assert (runtime.shown, runtime.ended) == (["a", "b"], ["a"])


async def test_bookmarks_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    bookmark = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "9"}}}
    runtime = scripted(monkeypatch, [bookmark])
    await drain()
    assert runtime.watches.ages() == {"Pod": 0.0}


async def test_kinds_that_are_kopfs_own_business_pass_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = scripted(monkeypatch, [LISTED], [LISTED])
    assert await drain("CustomResourceDefinition") == [LISTED]
    assert runtime.watches.ages() == {}


def test_kopf_still_has_what_the_tap_needs() -> None:
    """Private parts of kopf: when this fails after an upgrade, look at `handlers.tap` before anything else."""
    assert set(inspect.signature(watching.continuous_watch).parameters) == handlers.STREAM_ARGUMENTS
    assert inspect.isasyncgenfunction(watching.continuous_watch)
    source = inspect.getsource(watching.infinite_watch)
    assert "continuous_watch(" in source
    assert hasattr(watching.Bookmark, "LISTED")


def test_another_kopf_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "continuous_watch", lambda **_: None)
    with pytest.raises(SystemExit, match=r"install kopf 1\.45"):
        handlers.tap(FakeRuntime())  # type: ignore[arg-type]
