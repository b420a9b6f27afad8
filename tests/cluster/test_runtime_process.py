"""The operator as a process against a real API server, with exactly the rights it is documented to need."""

import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from support.kube_api import KubeApi
from support.operator_process import OperatorProcess, eventually, install_crds, operator
from support.watch_proxy import watch_proxy

pytestmark = pytest.mark.cluster

SMALL = "support.small_operator"
GROUP = "/apis/bertops.dev/v1alpha1/namespaces"


@pytest.fixture(scope="module", autouse=True)
def crds(api: KubeApi) -> None:
    install_crds(api)


@pytest.fixture
def namespace(api: KubeApi) -> Iterator[str]:
    name = f"runtime-{uuid4().hex[:8]}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    api.request("DELETE", f"/api/v1/namespaces/{name}")


class Place:
    """One namespace, in the words of the tests."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    def berts(self, name: str = "", sub: str = "") -> str:
        return "/".join(filter(None, [GROUP, self.namespace, "bertdeployments", name, sub]))

    def core(self, plural: str, name: str = "") -> str:
        return "/".join(filter(None, ["/api/v1/namespaces", self.namespace, plural, name]))

    def create(self, name: str = "demo", replicas: int = 1) -> dict[str, Any]:
        source = {"pvc": {"claimName": "weights"}}
        model = {"name": "m", "build": {"task": "feature-extraction"}, "versions": [{"version": 1, "source": source}]}
        spec = {
            "replicas": replicas,
            "server": {"type": "triton"},
            "storage": {"size": "1Gi"},
            "models": [model],
        }
        body = {
            "apiVersion": "bertops.dev/v1alpha1",
            "kind": "BertDeployment",
            "metadata": {"name": name},
            "spec": spec,
        }
        answer = self.api.request("POST", self.berts(), body)
        assert answer.code == 201, answer.message
        return answer.body

    def bert(self, name: str = "demo") -> dict[str, Any]:
        return self.api.request("GET", self.berts(name)).body

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.api.request("PATCH", path, body, content_type="application/merge-patch+json")
        assert answer.code == 200, answer.message
        return answer.body

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        answer = self.api.request("GET", self.core(plural, name))
        return answer.body if answer.code == 200 else None

    def ours(self, plural: str, path: str = "") -> list[dict[str, Any]]:
        found = self.api.request(
            "GET", path or self.core(plural), labelSelector="app.kubernetes.io/managed-by=bert-operator"
        )
        items: list[dict[str, Any]] = found.body["items"]
        return items

    def versions(self) -> dict[str, str]:
        """resourceVersion of everything the operator could have written."""
        found = [*self.ours("configmaps"), *self.ours("services"), *self.ours("persistentvolumeclaims")]
        found += self.ours("", f"/apis/batch/v1/namespaces/{self.namespace}/jobs")
        found += self.api.request("GET", self.berts()).body["items"]
        return {obj["metadata"]["uid"]: obj["metadata"]["resourceVersion"] for obj in found}

    def served(self, replicas: int, name: str = "demo") -> Callable[[], bool]:
        """Whether the small plan's wishes are all fulfilled and told."""

        def check() -> bool:
            bert = self.bert(name)
            suffix = bert["metadata"]["uid"].replace("-", "")[:6]
            names = [obj["metadata"]["name"] for obj in self.ours("configmaps")]
            done = {"observedGeneration": bert["metadata"]["generation"], "replicas": 1}
            return names == [f"{name}-config-{replicas}-{suffix}"] and bert.get("status") == done

        return check


@pytest.fixture
def place(api: KubeApi, namespace: str) -> Place:
    return Place(api, namespace)


@pytest.fixture
def small(place: Place, tmp_path: Path) -> Iterator[OperatorProcess]:
    with operator(place.api, tmp_path, "-n", place.namespace, module=SMALL) as running:
        yield running


def test_a_bertdeployment_gets_children_status_and_an_event(place: Place, small: OperatorProcess) -> None:
    bert = place.create()
    eventually("children and status", place.served(1))
    (service,) = place.ours("services")
    assert service["metadata"]["ownerReferences"][0]["uid"] == bert["metadata"]["uid"]
    events = f"/apis/events.k8s.io/v1/namespaces/{place.namespace}/events"
    told = eventually("an Event", lambda: place.api.request("GET", events).body["items"])
    assert [(event["reason"], event["note"], event["regarding"]["name"]) for event in told] == [
        ("Seen", "hello", "demo")
    ]
    eventually("it comes to rest", small.idle)
    assert small.reads() == 1, "one look whether the Service's name is free"
    assert small.writes() <= 2 + 2 + 1, "two children, at most two status writes, one Event"
    live = place.bert()["metadata"]
    assert "finalizers" not in live
    assert "annotations" not in live


def test_our_status_is_ours_alone_and_a_users_label_survives_it(place: Place, small: OperatorProcess) -> None:
    place.create()
    eventually("status", place.served(1))
    place.patch(place.berts("demo"), {"metadata": {"labels": {"team": "nlp"}}, "spec": {"replicas": 2}})
    eventually("new status", place.served(2))
    live = place.bert()
    assert live["metadata"]["labels"] == {"team": "nlp"}
    managers = {(entry["manager"], entry.get("subresource")) for entry in live["metadata"]["managedFields"]}
    assert ("bert-operator-status", "status") in managers
    assert small.process.poll() is None


def test_an_update_replaces_the_old_child(place: Place, small: OperatorProcess) -> None:
    place.create()
    eventually("first", place.served(1))
    before = small.writes()
    for replicas in (2, 3, 4, 5):
        place.patch(place.berts("demo"), {"spec": {"replicas": replicas}})
    eventually("only the last", place.served(5))
    eventually("it comes to rest", small.idle)
    assert small.reads() == 1, "updates read nothing"
    assert small.writes() - before <= 4 * 4


def test_a_deleted_or_bent_child_is_mended(place: Place, small: OperatorProcess) -> None:
    place.create()
    eventually("children", place.served(1))
    (old,) = place.ours("services")
    place.api.request("DELETE", place.core("services", "demo"))
    new = eventually("a new Service", lambda: place.get("services", "demo"))
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    place.patch(place.core("services", "demo"), {"metadata": {"labels": {"app.kubernetes.io/name": "bent"}}})
    mended = {"app.kubernetes.io/name": "bert"}
    eventually("labels", lambda: mended.items() <= (place.get("services", "demo") or new)["metadata"]["labels"].items())
    assert place.get("services", "demo")["metadata"]["uid"] == new["metadata"]["uid"]  # type: ignore[index]
    eventually("it comes to rest", small.idle)


def test_a_child_that_loses_the_label_we_watch_by_is_mended_and_all_comes_to_rest(
    place: Place, small: OperatorProcess
) -> None:
    place.create()
    eventually("children", place.served(1))
    (child,) = place.ours("configmaps")
    label = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
    place.patch(place.core("configmaps", child["metadata"]["name"]), label)
    eventually("it is labelled again", lambda: place.ours("configmaps"))
    eventually("it comes to rest", small.idle)
    writes = small.writes()
    eventually("status", place.served(1))
    assert small.writes() - writes <= 1


def test_deleting_it_is_never_blocked_and_its_children_go(place: Place, small: OperatorProcess) -> None:
    place.create()
    eventually("children", place.served(1))
    answer = place.api.request("DELETE", place.berts("demo"))
    assert answer.body.get("status") == "Success", "gone at once: nothing holds it"
    eventually("no children", lambda: not place.ours("services") and not place.ours("configmaps"))
    eventually("it comes to rest", small.idle)


def test_a_successor_of_the_same_name_gets_children_of_its_own(place: Place, small: OperatorProcess) -> None:
    place.create()
    eventually("children", place.served(1))
    first = place.bert()["metadata"]["uid"]
    place.api.request("DELETE", place.berts("demo"))
    place.create()
    eventually("the successor is served", place.served(1), 60)
    (service,) = place.ours("services")
    assert [owner["uid"] for owner in service["metadata"]["ownerReferences"]] == [place.bert()["metadata"]["uid"]]
    assert place.bert()["metadata"]["uid"] != first
    assert small.process.poll() is None


def test_somebody_elses_service_is_not_touched(place: Place, small: OperatorProcess) -> None:
    theirs = {"metadata": {"name": "demo"}, "spec": {"ports": [{"port": 1234, "name": "theirs"}]}}
    before = place.api.request("POST", place.core("services"), theirs).body
    place.create()
    eventually("it says so", lambda: place.bert().get("status") == {"summary": {"stage": "NameConflict"}})
    eventually("it comes to rest", small.idle)
    assert place.get("services", "demo") == before
    assert place.ours("configmaps") == []


_POD = {"containers": [{"name": "c", "image": "nowhere/c:1"}], "restartPolicy": "Never"}
_CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
_APP = {"matchLabels": {"app": "theirs"}}
FOREIGN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Service": ("/api/v1", "services", {"spec": {"ports": [{"port": 1234}]}}),
    "ConfigMap": ("/api/v1", "configmaps", {"data": {"theirs": "1"}}),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims", {"spec": _CLAIM}),
    "Job": ("/apis/batch/v1", "jobs", {"spec": {"suspend": True, "template": {"spec": _POD}}}),
    "Deployment": (
        "/apis/apps/v1",
        "deployments",
        {
            "spec": {
                "replicas": 0,
                "selector": _APP,
                "template": {"metadata": {"labels": {"app": "theirs"}}, "spec": _POD | {"restartPolicy": "Always"}},
            }
        },
    ),
}


@pytest.mark.parametrize("name", ["demo", "demo-store"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_no_foreign_object_of_our_names_is_touched(place: Place, tmp_path: Path, kind: str, name: str) -> None:
    group, plural, body = FOREIGN[kind]
    path = f"{group}/namespaces/{place.namespace}/{plural}"
    made = place.api.request("POST", path, {"metadata": {"name": name}} | body)
    assert made.code == 201, made.message

    def theirs() -> tuple[Any, ...]:
        live = place.api.request("GET", f"{path}/{name}").body
        writers = sorted(entry["manager"] for entry in live["metadata"].get("managedFields", ()))
        ours = [manager for manager in writers if "bert" in manager]
        return live["metadata"]["uid"], live["metadata"].get("labels"), live.get("data"), ours

    before = theirs()
    with operator(place.api, tmp_path, "-n", place.namespace) as real:
        place.create()
        eventually("it says something", lambda: place.bert().get("status", {}).get("conditions"))
        eventually("it comes to rest", real.idle)
        accepted = next(c for c in place.bert()["status"]["conditions"] if c["type"] == "Accepted")
    assert theirs() == before
    clash = (kind, name) in {("Service", "demo"), ("PersistentVolumeClaim", "demo-store")}
    assert accepted["reason"] == ("NameConflict" if clash else "Valid")


def test_a_refusal_by_the_api_server_reaches_the_user_as_an_event(place: Place, small: OperatorProcess) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/configmaps": "1"}}}
    place.api.request("POST", place.core("resourcequotas"), quota)
    eventually("the quota counts", lambda: (place.get("resourcequotas", "none") or {}).get("status", {}).get("used"))
    place.create()
    events = f"/apis/events.k8s.io/v1/namespaces/{place.namespace}/events"

    def refused() -> list[str]:
        items = place.api.request("GET", events).body["items"]
        return [event["note"] for event in items if event["reason"] == "ApiRefused"]

    (note,) = eventually("an Event", refused)
    assert re.match(r"apply ConfigMap demo-config-1-\w{6}: .*exceeded quota", note)
    place.api.request("DELETE", place.core("resourcequotas", "none"))
    eventually("it is tried again", place.served(1), 90)
    assert len(refused()) == 1
    assert not [line for line in small.lines() if "exception" in line], "no traceback for what the server says"


def stopped(place: Place, folder: Path, module: str) -> dict[str, str]:
    """Let an operator do everything, end it, and say how it left things."""
    with operator(place.api, folder, "-n", place.namespace, module=module) as first:
        for name in ("one", "two", "three"):
            place.create(name)
        eventually("work is done", lambda: first.reconciles() >= 6 and first.idle())
        before = place.versions()
        eventually("nothing stirs any more", lambda: settled(place, before) and first.idle())
    return place.versions()


def settled(place: Place, before: dict[str, str]) -> bool:
    current = place.versions()
    same = current == before
    before.clear()
    before.update(current)
    return same


@pytest.mark.parametrize("module", [SMALL, "bert_operator.handlers"], ids=["small plan", "real plan"])
def test_a_restart_writes_nothing(place: Place, tmp_path: Path, module: str) -> None:
    before = stopped(place, tmp_path, module)
    assert len(before) >= 6
    with operator(place.api, tmp_path, "-n", place.namespace, module=module) as second:
        eventually("all were looked at", lambda: second.reconciles() >= 3 and second.idle())
        assert (second.writes(), second.reads()) == (0, 0)
    assert place.versions() == before


def test_what_was_deleted_while_it_was_away_is_mended(place: Place, tmp_path: Path) -> None:
    with operator(place.api, tmp_path, "-n", place.namespace, module=SMALL, kill=True):
        place.create()
        eventually("children", place.served(1))
    place.api.request("DELETE", place.core("services", "demo"))
    with operator(place.api, tmp_path, "-n", place.namespace, module=SMALL):
        eventually("a new Service", lambda: place.get("services", "demo"))


def test_what_vanishes_unseen_while_a_watch_has_expired_is_mended(place: Place, tmp_path: Path) -> None:
    """kopf lists anew after "410 Gone" but says nothing of what is missing from the listing."""
    with (
        watch_proxy(place.api) as proxy,
        operator(place.api, tmp_path, "-n", place.namespace, module=SMALL, server=proxy.url) as running,
    ):
        place.create()
        eventually("children", place.served(1))
        eventually("it comes to rest", running.idle)
        (old,) = place.ours("services")
        listings = proxy.listings.count("services")
        proxy.hold("services")
        place.api.request("DELETE", place.core("services", "demo"))
        eventually("it wants to list anew", lambda: "services" in proxy.waiting)
        proxy.release("services")
        new = eventually("a new Service", lambda: place.get("services", "demo"))
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        assert proxy.listings.count("services") == listings + 1
        eventually("it is ready again", running.ready)


def all_active(api: KubeApi) -> bool:
    """Whether no namespace is being deleted: in one that is, nothing may be made, which is refused as Forbidden."""
    namespaces = api.request("GET", "/api/v1/namespaces").body["items"]
    return all(each["status"]["phase"] == "Active" for each in namespaces)


def test_cluster_wide_it_serves_every_namespace_and_ends_quickly_when_told(place: Place, tmp_path: Path) -> None:
    eventually("no namespace of another test is still going", partial(all_active, place.api))
    with operator(place.api, tmp_path, "-A", module=SMALL) as running:
        place.create()
        eventually("children", place.served(1))
        assert running.forbidden() == 0
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        told = [line["message"] for line in running.lines() if line["level"] in ("warning", "error")]
        assert told == []
