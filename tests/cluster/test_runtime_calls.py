"""What `cluster` relies on, asked of a real API server: these are the promises behind "never touch what isn't ours"."""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest

from bert_operator.api.actions import Adoption, Departure, Note, Ref
from bert_operator.cluster.calls import Cluster
from bert_operator.cluster.connection import Connection
from bert_operator.cluster.errors import ApiError
from bert_operator.metrics import Metrics
from support.kube_api import KubeApi
from support.objects import owner
from support.operator_process import eventually, install_crds

pytestmark = pytest.mark.cluster

NOBODY = "00000000-0000-4000-8000-000000000009"


@pytest.fixture
def namespace(api: KubeApi) -> Iterator[str]:
    install_crds(api)
    name = f"calls-{uuid4().hex[:8]}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    api.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def cluster(api: KubeApi) -> AsyncIterator[Cluster]:
    with mock.patch.dict(os.environ, {"KUBECONFIG": str(api.kubeconfig)}):
        connection = Connection(Metrics())
        await connection.open()
        yield Cluster(connection)
        await connection.close()


class Here:
    """Objects of one namespace."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    def config_map(self, name: str, value: str = "1", **metadata: Any) -> dict[str, Any]:
        place = {"name": name, "namespace": self.namespace, **metadata}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place, "data": {"value": value}}

    def get(self, name: str, plural: str = "configmaps", root: str = "/api/v1") -> Any:
        answer = self.api.request("GET", f"{root}/namespaces/{self.namespace}/{plural}/{name}")
        return answer.body if answer.code == 200 else None

    def post(self, body: dict[str, Any], plural: str = "configmaps", root: str = "/api/v1") -> dict[str, Any]:
        answer = self.api.request("POST", f"{root}/namespaces/{self.namespace}/{plural}", body)
        assert answer.code == 201, answer.message
        return answer.body

    def delete(self, name: str, plural: str, root: str) -> None:
        self.api.request("DELETE", f"{root}/namespaces/{self.namespace}/{plural}/{name}")

    def job(self, owned_by: dict[str, Any]) -> dict[str, Any]:
        container = {"name": "c", "image": "registry.test/none:1"}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "build", "namespace": self.namespace, "ownerReferences": [owned_by]},
            "spec": {
                "suspend": True,
                "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
            },
        }

    def bert(self, name: str = "demo") -> dict[str, Any]:
        version = {"version": 1, "source": {"pvc": {"claimName": "weights"}}}
        spec = {
            "server": {"type": "triton"},
            "storage": {"size": "1Gi"},
            "models": [{"name": "m", "build": {"task": "feature-extraction"}, "versions": [version]}],
        }
        body = {
            "apiVersion": "bertops.dev/v1alpha1",
            "kind": "BertDeployment",
            "metadata": {"name": name},
            "spec": spec,
        }
        return self.post(body, "bertdeployments", "/apis/bertops.dev/v1alpha1")


@pytest.fixture
def here(api: KubeApi, namespace: str) -> Here:
    return Here(api, namespace)


async def test_a_new_object_is_created_and_a_field_no_longer_asked_for_goes(here: Here, cluster: Cluster) -> None:
    made = await cluster.apply(here.config_map("a"))
    assert here.get("a")["data"] == {"value": "1"}
    changed = here.config_map("a", uid=made["metadata"]["uid"]) | {"data": {"other": "2"}}
    await cluster.apply(changed)
    assert here.get("a")["data"] == {"other": "2"}


async def test_applying_the_same_again_changes_nothing(here: Here, cluster: Cluster) -> None:
    first = await cluster.apply(here.config_map("a"))
    again = await cluster.apply(here.config_map("a", uid=first["metadata"]["uid"]))
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_a_new_object_never_lands_on_one_that_appeared_meanwhile(here: Here, cluster: Cluster) -> None:
    before = here.post(here.config_map("a", "theirs"))
    with pytest.raises(ApiError) as caught:
        await cluster.apply(here.config_map("a", "ours"))
    assert (caught.value.status, caught.value.refused) == (409, False)
    assert here.get("a") == before


async def test_an_update_never_lands_on_a_successor(here: Here, cluster: Cluster) -> None:
    before = here.post(here.config_map("a", "theirs"))
    with pytest.raises(ApiError) as caught:
        await cluster.apply(here.config_map("a", "ours", uid=NOBODY))
    assert (caught.value.status, caught.value.refused) == (409, False)
    assert here.get("a") == before


async def test_an_update_of_what_is_gone_creates_nothing(here: Here, cluster: Cluster) -> None:
    with pytest.raises(ApiError) as caught:
        await cluster.apply(here.config_map("a", uid=NOBODY))
    assert caught.value.status == 409
    assert here.get("a") is None


async def test_a_namespace_that_is_being_deleted_is_told_from_a_missing_right(
    api: KubeApi, here: Here, cluster: Cluster
) -> None:
    held = here.post(here.config_map("held", finalizers=["tests.bertops.dev/hold"]))
    api.request("DELETE", f"/api/v1/namespaces/{here.namespace}")
    try:
        with pytest.raises(ApiError) as caught:
            await cluster.apply(here.config_map("a"))
    finally:
        path = f"/api/v1/namespaces/{here.namespace}/configmaps/{held['metadata']['name']}"
        freed = {"metadata": {"finalizers": None}}
        api.request("PATCH", path, freed, content_type="application/merge-patch+json")
    assert (caught.value.status, caught.value.namespace_ends) == (403, True)


async def test_a_child_that_lost_its_owner_is_mended_under_its_own_name(here: Here, cluster: Cluster) -> None:
    uid = here.bert()["metadata"]["uid"]
    labels = {"bertops.dev/owner": "aaaaaa"}
    here.post(here.config_map("demo-aaaaaa", labels=labels))
    await cluster.apply(here.config_map("demo-aaaaaa", "mended", labels=labels, ownerReferences=[owner(uid)]))
    live = here.get("demo-aaaaaa")
    assert live["data"] == {"value": "mended"}
    assert live["metadata"]["ownerReferences"][0]["uid"] == uid


async def test_a_job_is_created_once_and_adopting_it_keeps_the_other_owner(here: Here, cluster: Cluster) -> None:
    mine, theirs = (owner(here.bert(name)["metadata"]["uid"], name) for name in ("demo", "other"))
    made = await cluster.create(here.job(theirs))
    assert made is not None
    assert await cluster.create(here.job(theirs)) is None
    adoption = Adoption(kind="Job", name="build", uid=made["metadata"]["uid"], owner_reference=mine)
    for _ in range(2):
        reply = await cluster.adopt(here.namespace, adoption)
        assert sorted(each["name"] for each in reply["metadata"]["ownerReferences"]) == ["demo", "other"]
    with pytest.raises(ApiError, match="adopt Job build"):
        await cluster.adopt(here.namespace, replace(adoption, uid=NOBODY, owner_reference=owner(NOBODY)))
    assert len(here.get("build", "jobs", "/apis/batch/v1")["metadata"]["ownerReferences"]) == 2


async def test_a_shared_job_lives_as_long_as_one_who_asked_for_it(here: Here, cluster: Cluster) -> None:
    mine, theirs = (owner(here.bert(name)["metadata"]["uid"], name) for name in ("demo", "other"))
    made = await cluster.create(here.job(theirs))
    assert made is not None
    uid = made["metadata"]["uid"]
    await cluster.adopt(here.namespace, Adoption(kind="Job", name="build", uid=uid, owner_reference=mine))

    def owners() -> list[str]:
        live = here.get("build", "jobs", "/apis/batch/v1") or {"metadata": {}}
        return [each["name"] for each in live["metadata"].get("ownerReferences", ())]

    here.delete("other", "bertdeployments", "/apis/bertops.dev/v1alpha1")
    eventually("the collector takes the first one's name off", lambda: owners() == ["demo"])
    here.delete("demo", "bertdeployments", "/apis/bertops.dev/v1alpha1")
    eventually("nobody wants it any more", lambda: here.get("build", "jobs", "/apis/batch/v1") is None)


async def test_of_two_who_leave_a_job_at_once_the_second_is_told(here: Here, cluster: Cluster) -> None:
    mine, theirs = (owner(here.bert(name)["metadata"]["uid"], name) for name in ("demo", "other"))
    made = await cluster.create(here.job(theirs))
    assert made is not None
    uid = made["metadata"]["uid"]
    shared = await cluster.adopt(here.namespace, Adoption(kind="Job", name="build", uid=uid, owner_reference=mine))
    judged = shared["metadata"]["resourceVersion"]
    first, second = (
        Departure(kind="Job", name="build", uid=uid, owner_uid=one["uid"], resource_version=judged)
        for one in (mine, theirs)
    )
    left = await cluster.leave(here.namespace, first)
    assert [each["name"] for each in left["metadata"]["ownerReferences"]] == ["other"]
    with pytest.raises(ApiError) as caught:
        await cluster.leave(here.namespace, second)
    assert (caught.value.status, caught.value.refused) == (409, False)


async def test_only_the_object_that_was_meant_is_deleted(here: Here, cluster: Cluster) -> None:
    live = here.post(here.config_map("a"))
    assert await cluster.delete(here.namespace, Ref(kind="ConfigMap", name="a", uid=NOBODY)) is None
    assert here.get("a") is not None
    await cluster.delete(here.namespace, Ref(kind="ConfigMap", name="a", uid=live["metadata"]["uid"]))
    assert here.get("a") is None
    assert await cluster.delete(here.namespace, Ref(kind="ConfigMap", name="a", uid=live["metadata"]["uid"])) is None


async def test_what_a_finalizer_holds_is_given_back_as_going(here: Here, cluster: Cluster) -> None:
    live = here.post(here.config_map("a", finalizers=["example.org/hold"]))
    reply = await cluster.delete(here.namespace, Ref(kind="ConfigMap", name="a", uid=live["metadata"]["uid"]))
    assert reply is not None
    assert reply["metadata"]["deletionTimestamp"]
    path = f"/api/v1/namespaces/{here.namespace}/configmaps/a"
    here.api.request("PATCH", path, {"metadata": {"finalizers": None}}, content_type="application/merge-patch+json")


async def test_a_status_judged_on_an_older_spec_is_refused(here: Here, cluster: Cluster) -> None:
    judged = here.bert()
    path = f"/apis/bertops.dev/v1alpha1/namespaces/{here.namespace}/bertdeployments/demo"
    here.api.request("PATCH", path, {"spec": {"replicas": 3}}, content_type="application/merge-patch+json")
    with pytest.raises(ApiError) as caught:
        await cluster.write_status(judged, {"replicas": 1})
    assert caught.value.status == 409
    fresh = here.get("demo", "bertdeployments", "/apis/bertops.dev/v1alpha1")
    reply = await cluster.write_status(fresh, {"replicas": 1, "selector": "a=b"})
    assert reply["status"] == {"replicas": 1, "selector": "a=b"}
    reply = await cluster.write_status(reply, {"replicas": 2})
    assert reply["status"] == {"replicas": 2}, "what is no longer said goes"
    same = await cluster.write_status(reply, {"replicas": 2})
    assert same["metadata"]["resourceVersion"] == reply["metadata"]["resourceVersion"]


async def test_a_name_is_foreign_only_if_another_has_it(here: Here, cluster: Cluster) -> None:
    uid = here.bert()["metadata"]["uid"]
    here.post(here.config_map("theirs"))
    here.post(here.config_map("ours", ownerReferences=[owner(uid)]))
    wanted = [("ConfigMap", name) for name in ("theirs", "ours", "free")]
    taken, ours = await cluster.foreign(here.namespace, uid, wanted)
    assert taken == {("ConfigMap", "theirs")}
    assert [obj["kind"] for obj in ours] == ["ConfigMap"]


async def test_an_event_is_shown_once(here: Here, cluster: Cluster) -> None:
    bert = here.bert()
    for _ in range(2):
        await cluster.tell(bert, Note(type="Warning", reason="BuildFailed", message="é" * 3000))
    path = f"/apis/events.k8s.io/v1/namespaces/{here.namespace}/events"
    (event,) = here.api.request("GET", path).body["items"]
    assert (event["reason"], event["type"], event["note"][-1]) == ("BuildFailed", "Warning", "…")


async def test_what_the_api_server_refuses_is_explained_and_a_users_business(here: Here, cluster: Cluster) -> None:
    broken = here.config_map("Not_A_Name")
    with pytest.raises(ApiError, match=r"apply ConfigMap Not_A_Name: Invalid: .*must consist of lower case") as caught:
        await cluster.apply(broken)
    assert caught.value.refused
