"""Calls as the API server sees them, over real HTTP to a server that answers as told."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from bert_operator.api import names
from bert_operator.api.actions import Adoption, Departure, Hold, Note, Ref
from bert_operator.cluster.calls import Cluster, owned_by
from bert_operator.cluster.connection import ConfigurationError, Connection
from bert_operator.cluster.errors import ApiError
from bert_operator.cluster.resources import path
from bert_operator.cluster.stores import Stores
from bert_operator.metrics import Metrics
from bert_operator.plan import POD_SECONDS
from support.objects import BERT_UID, OTHER_UID, a_bert, a_child, owner

Answer = Callable[[web.Request], web.Response]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    content_type: str
    token: str
    body: Any


@dataclass
class ApiServer:
    """Notes each request and gives the next answer, at the end 200 with what it was sent."""

    requests: list[Request] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        body = json.loads(raw) if raw else None
        token = request.headers.get("Authorization", "")
        content = request.headers.get("Content-Type", "")
        self.requests.append(Request(request.method, request.path, dict(request.query), content, token, body))
        if self.answers:
            return self.answers.pop(0)(request)
        return web.json_response(body or {})

    def say(self, status: int, reason: str = "", message: str = "", headers: Any = None, **details: Any) -> None:
        body = {"kind": "Status", "reason": reason, "message": message, "details": details}
        self.answers.append(lambda _: web.json_response(body, status=status, headers=headers))

    def give(self, obj: dict[str, Any]) -> None:
        self.answers.append(lambda _: web.json_response(obj))


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    made = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def kubeconfig(folder: Path, url: str, token_file: Path) -> Path:
    file = folder / "kubeconfig"
    named = {"name": "x"}
    content = {
        "current-context": "x",
        "contexts": [{**named, "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{**named, "cluster": {"server": url}}],
        "users": [{**named, "user": {"tokenFile": str(token_file)}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
async def connection(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connection]:
    (tmp_path / "token").write_text("first")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.url, tmp_path / "token")))
    made = Connection(Metrics())
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def cluster(connection: Connection) -> Cluster:
    return Cluster(connection)


async def test_an_update_names_the_uid_and_forces_our_fields(server: ApiServer, cluster: Cluster) -> None:
    await cluster.apply(a_child("Deployment", "demo-aaaaaa"))
    (request,) = server.requests
    assert (request.method, request.path) == ("PATCH", "/apis/apps/v1/namespaces/ns/deployments/demo-aaaaaa")
    assert request.query == {"fieldManager": "bert-operator", "force": "true"}
    assert request.content_type == "application/apply-patch+yaml"
    assert request.body["metadata"]["uid"] == "uid-Deployment-demo-aaaaaa"


def new(kind: str, name: str) -> dict[str, Any]:
    child = a_child(kind, name)
    del child["metadata"]["uid"], child["metadata"]["resourceVersion"]
    return child


async def test_a_new_object_under_a_plain_name_can_only_be_created(server: ApiServer, cluster: Cluster) -> None:
    await cluster.apply(new("Service", "demo"))
    assert server.requests[0].body["metadata"]["resourceVersion"] == "1"


async def test_under_a_name_that_holds_our_uid_a_lost_child_is_mended(server: ApiServer, cluster: Cluster) -> None:
    await cluster.apply(new("Deployment", "demo-aaaaaa"))
    assert "resourceVersion" not in server.requests[0].body["metadata"]


async def test_a_successor_of_the_same_name_is_a_conflict_not_a_users_mistake(
    server: ApiServer, cluster: Cluster
) -> None:
    server.say(422, "Invalid", "uid is immutable", causes=[{"field": "metadata.uid"}])
    with pytest.raises(ApiError) as caught:
        await cluster.apply(a_child("Service", "demo"))
    assert (caught.value.status, caught.value.refused) == (409, False)


async def test_creating_what_exists_is_fine(server: ApiServer, cluster: Cluster) -> None:
    server.say(409, "AlreadyExists", "jobs.batch already exists")
    assert await cluster.create(new("Job", "build")) is None
    assert (server.requests[0].method, server.requests[0].path) == ("POST", "/apis/batch/v1/namespaces/ns/jobs")


async def test_adopting_adds_one_owner_to_exactly_that_job(server: ApiServer, cluster: Cluster) -> None:
    await cluster.adopt("ns", Adoption(kind="Job", name="build", uid="u", owner_reference=owner()))
    (request,) = server.requests
    assert request.content_type == "application/strategic-merge-patch+json"
    assert request.body == {"metadata": {"uid": "u", "ownerReferences": [owner()]}}


@pytest.mark.parametrize("force", [False, True])
async def test_a_count_is_held_by_a_manager_of_its_own_on_exactly_that_deployment(
    server: ApiServer,
    cluster: Cluster,
    force: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    await cluster.hold("ns", Hold(name="demo-aaaaaa", uid="u", count=4, force=force))
    await cluster.hold("ns", Hold(name="demo-aaaaaa", uid="u", count=None))
    held, let_go = server.requests
    assert held.path == "/apis/apps/v1/namespaces/ns/deployments/demo-aaaaaa"
    assert held.query == {"fieldManager": "bertops-replicas"} | ({"force": "true"} if force else {})
    place = {"name": "demo-aaaaaa", "namespace": "ns", "uid": "u"}
    assert held.body == {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": place, "spec": {"replicas": 4}}
    assert let_go.body == {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": place}


REPLACED = "the UID in the precondition (u) does not match the UID in record (v). The object might have been recreated"


@pytest.mark.parametrize(("status", "reason", "message"), [(404, "NotFound", "gone"), (409, "Conflict", REPLACED)])
async def test_deleting_what_is_gone_or_replaced_is_fine(
    server: ApiServer, cluster: Cluster, status: int, reason: str, message: str
) -> None:
    server.say(status, reason, message=message)
    assert await cluster.delete("ns", Ref(kind="Job", name="build", uid="u")) is None
    assert server.requests[0].body == {"preconditions": {"uid": "u"}, "propagationPolicy": "Background"}


async def test_a_conflict_for_another_reason_deletes_nothing_so_it_is_tried_again(
    server: ApiServer, cluster: Cluster
) -> None:
    """Taking it for gone would leave it behind for ever: no event of it would ever come."""
    server.say(409, "Conflict", message="the object has been modified")
    with pytest.raises(ApiError, match="modified"):
        await cluster.delete("ns", Ref(kind="Job", name="build", uid="u"))


async def test_leaving_what_is_gone_is_fine(server: ApiServer, cluster: Cluster) -> None:
    server.say(404, "NotFound")
    departure = Departure(kind="Job", name="build", uid="u", owner_uid=BERT_UID, resource_version="7")
    assert await cluster.leave("ns", departure) is None


async def test_what_lingers_after_a_delete_is_given_back(server: ApiServer, cluster: Cluster) -> None:
    lingering = a_child("Service", "demo")
    lingering["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    server.give(lingering)
    assert await cluster.delete("ns", Ref(kind="Service", name="demo", uid="u")) == lingering


async def test_the_status_is_written_for_the_judged_object_only(server: ApiServer, cluster: Cluster) -> None:
    await cluster.write_status(a_bert(version=7), {"replicas": 1})
    (request,) = server.requests
    assert request.path == "/apis/bertops.dev/v1alpha1/namespaces/ns/bertdeployments/demo/status"
    assert request.query["fieldManager"] == "bert-operator-status"
    assert request.body["metadata"] == {"name": "demo", "namespace": "ns", "uid": BERT_UID, "resourceVersion": "7"}
    assert request.body.keys() == {"apiVersion", "kind", "metadata", "status"}


async def test_the_same_event_is_told_once_in_ten_minutes_even_after_a_restart(
    server: ApiServer, cluster: Cluster, connection: Connection
) -> None:
    note = Note(type="Warning", reason="BuildFailed", message="é" * 2000)
    for _ in range(3):
        await cluster.tell(a_bert(), note, NOW)
    server.say(409, "AlreadyExists")
    await Cluster(connection).tell(a_bert(), note, NOW)
    assert len(server.requests) == 2
    first, second = (request.body for request in server.requests)
    assert first["metadata"]["name"] == second["metadata"]["name"]
    assert 1020 <= len(first["note"].encode()) <= 1024
    assert first["regarding"]["uid"] == BERT_UID
    await cluster.tell(a_bert(), note, NOW.replace(hour=1))
    assert server.requests[2].body["metadata"]["name"] != first["metadata"]["name"]


async def test_a_taken_name_is_foreign_a_free_one_is_not_and_ours_is_given_back(
    server: ApiServer, cluster: Cluster
) -> None:
    wanted = [("Service", "taken"), ("Service", "free"), ("Service", "ours")]
    stranger = a_child("Service", "taken")
    stranger["metadata"]["ownerReferences"] = [owner(OTHER_UID)]
    server.give(stranger)
    server.say(404, "NotFound")
    server.give(a_child("Service", "ours"))
    taken, ours = await cluster.foreign("ns", BERT_UID, wanted)
    assert taken == {("Service", "taken")}
    assert [obj["metadata"]["name"] for obj in ours] == ["ours"]


def said(uid: str, note: str, at: str) -> dict[str, Any]:
    return {"regarding": {"kind": "Job", "uid": uid}, "note": note, "deprecatedLastTimestamp": f"2026-01-01T00:{at}Z"}


class TestRefusedPods:
    JOBS = (("one", "1"), ("two", "2"), ("three", "3"))

    @pytest.fixture
    def clock(self) -> list[float]:
        return [100.0]

    @pytest.fixture
    def cluster(self, connection: Connection, clock: list[float]) -> Cluster:
        return Cluster(connection, clock=lambda: clock[0])

    async def test_one_list_says_it_of_all_jobs(self, server: ApiServer, cluster: Cluster) -> None:
        events = [said("1", "quota, anew", "02:00"), said("1", "quota", "01:00"), said("3", "policy", "00:00")]
        server.give({"items": [*events, said("stranger", "quota", "00:00")]})
        assert await cluster.refused_pods("ns", self.JOBS) == {"1": "quota, anew", "3": "policy"}
        (request,) = server.requests
        assert request.path == "/apis/events.k8s.io/v1/namespaces/ns/events"
        assert request.query == {"fieldSelector": "reason=FailedCreate,regarding.kind=Job"}

    async def test_what_was_said_is_kept_until_the_next_look(
        self, server: ApiServer, cluster: Cluster, clock: list[float]
    ) -> None:
        server.give({"items": [said("1", "quota", "01:00")]})
        for _ in range(3):
            assert await cluster.refused_pods("ns", self.JOBS) == {"1": "quota"}
        assert len(server.requests) == 1
        clock[0] += POD_SECONDS[1] - POD_SECONDS[0]
        server.give({"items": [said("2", "policy", "02:00")]})
        assert await cluster.refused_pods("ns", self.JOBS) == {"2": "policy"}

    async def test_a_job_nobody_asked_about_before_is_asked_about_at_once(
        self, server: ApiServer, cluster: Cluster
    ) -> None:
        assert await cluster.refused_pods("ns", ()) == {}
        server.give({"items": []})
        await cluster.refused_pods("ns", self.JOBS[:1])
        server.give({"items": [said("2", "policy", "02:00")]})
        assert await cluster.refused_pods("ns", self.JOBS) == {"2": "policy"}
        assert len(server.requests) == 2

    async def test_events_that_cant_be_read_take_nothing_away(
        self, server: ApiServer, cluster: Cluster, clock: list[float]
    ) -> None:
        server.say(403, "Forbidden")
        assert await cluster.refused_pods("ns", self.JOBS) == {}
        clock[0] += 60
        server.give({"items": [said("1", "quota", "01:00")]})
        await cluster.refused_pods("ns", self.JOBS)
        clock[0] += 60
        server.say(500, "InternalError")
        assert await cluster.refused_pods("ns", self.JOBS) == {"1": "quota"}


def test_labels_are_no_proof_of_ownership() -> None:
    child = a_child("Service", "demo")
    assert owned_by(child, BERT_UID)
    child["metadata"]["ownerReferences"] = []
    assert not owned_by(child, BERT_UID)


# --- failures -----------------------------------------------------------------------------------------------------


async def test_the_servers_wish_to_wait_travels_with_the_error(server: ApiServer, cluster: Cluster) -> None:
    server.say(429, "TooManyRequests", "slow down", headers={"Retry-After": "7"})
    with pytest.raises(ApiError) as caught:
        await cluster.apply(a_child("Service", "demo"))
    assert caught.value.retry_after == 7.0
    assert str(caught.value) == "apply Service demo: TooManyRequests: slow down"


async def test_an_answer_that_is_no_kubernetes_object_is_still_a_readable_error(
    server: ApiServer, cluster: Cluster
) -> None:
    server.answers.append(lambda _: web.Response(status=502, text="<html>bad gateway</html>"))
    with pytest.raises(ApiError, match="apply Service demo: HTTP 502: <html>bad gateway"):
        await cluster.apply(a_child("Service", "demo"))


async def test_no_answer_is_an_error_of_the_same_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "http://127.0.0.1:9", tmp_path / "token")))
    connection = Connection(Metrics())
    await connection.open()
    with pytest.raises(ApiError, match="apply Service demo: Unreachable") as caught:
        await Cluster(connection).apply(a_child("Service", "demo"))
    assert (caught.value.status, caught.value.refused, caught.value.expected) == (0, False, True)
    await connection.close()


async def test_a_renewed_token_is_read_from_its_file_when_the_old_one_is_refused(
    server: ApiServer, cluster: Cluster, tmp_path: Path
) -> None:
    await cluster.apply(a_child("Service", "demo"))
    (tmp_path / "token").write_text("second")
    server.say(401, "Unauthorized")
    await cluster.apply(a_child("Service", "demo"))
    assert [request.token for request in server.requests] == ["Bearer first", "Bearer first", "Bearer second"]


async def test_many_refused_at_once_read_the_token_and_all_succeed(
    server: ApiServer, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("second")

    def check(request: web.Request) -> web.Response:
        good = request.headers["Authorization"] == "Bearer second"
        return web.json_response(a_child("Service", "demo"), status=200 if good else 401)

    server.answers = [check] * 40
    await asyncio.gather(*(cluster.apply(a_child("Service", "demo")) for _ in range(10)))


async def test_requests_are_counted_by_code(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.url, tmp_path / "token")))
    metrics = Metrics()
    connection = Connection(metrics)
    await connection.open()
    await Cluster(connection).apply(a_child("Service", "demo"))
    await connection.close()
    assert 'rest_client_requests_total{code="200",method="PATCH"} 1' in metrics.render()


async def test_no_configuration_is_explained_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="set KUBECONFIG"):
        await Connection(Metrics()).open()


async def test_who_we_are_is_told_without_showing_the_token(connection: Connection, server: ApiServer) -> None:
    access = await connection.access()
    assert (access.server, access.token) == (server.url, "first")
    assert "first" not in repr(access)


# --- addresses and imports ----------------------------------------------------------------------------------------


def test_addresses() -> None:
    assert path("Pod", "ns", "p") == "/api/v1/namespaces/ns/pods/p"
    assert path("Job", "ns") == "/apis/batch/v1/namespaces/ns/jobs"
    assert path(names.KIND, "ns", "x", "status").endswith("/v1alpha1/namespaces/ns/bertdeployments/x/status")
    assert path("Pod", "ns", "../x") == "/api/v1/namespaces/ns/pods/..%2Fx"


# --- who doesn't lead writes nothing ------------------------------------------------------------------------------


@dataclass
class Standing:
    leads: bool = True

    def may_write(self) -> bool:
        return self.leads


@pytest.fixture
async def guarded(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Cluster, Standing]]:
    (tmp_path / "token").write_text("first")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.url, tmp_path / "token")))
    standing = Standing()
    made = Connection(Metrics(), standing.may_write)
    await made.open()
    yield Cluster(made), standing
    await made.close()


async def test_one_who_does_not_lead_reads_but_writes_nothing(
    server: ApiServer, guarded: tuple[Cluster, Standing]
) -> None:
    cluster, standing = guarded
    await cluster.apply(a_child("Service", "demo"))
    standing.leads = False
    with pytest.raises(ApiError, match="apply Service demo: NotLeading: another process leads") as caught:
        await cluster.apply(a_child("Service", "demo"))
    assert not caught.value.refused
    with pytest.raises(ApiError, match="NotLeading"):
        await cluster.delete("ns", Ref(kind="Service", name="demo", uid="u"))
    server.give({"resources": []})
    await cluster.api_is_served()
    assert [request.method for request in server.requests] == ["PATCH", "GET"]


async def test_a_write_that_waits_for_a_free_connection_while_the_lease_is_lost_is_not_sent(
    server: ApiServer, guarded: tuple[Cluster, Standing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, standing = guarded
    busy, free = asyncio.Event(), asyncio.Event()
    handle = server.handle

    async def held(request: web.Request) -> web.Response:
        busy.set()
        await free.wait()
        return await handle(request)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", held)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setattr("bert_operator.cluster.connection.CONNECTIONS", 1)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, url, tmp_path / "token")))
    await cluster._connection.close()
    await cluster._connection.open()
    async with asyncio.timeout(10):
        first = asyncio.create_task(cluster.apply(a_child("Service", "first")))
        await busy.wait()
        second = asyncio.create_task(cluster.apply(a_child("Service", "second")))
        await asyncio.sleep(0)  # it has asked, been allowed, and waits
        standing.leads = False
        free.set()
        await first
        with pytest.raises(ApiError, match="apply Service second: NotLeading"):
            await second
    assert [request.path.rsplit("/", 1)[-1] for request in server.requests] == ["first"]
    await runner.cleanup()


def test_the_clients_models_are_never_imported() -> None:
    """They are thousands of modules: tens of megabytes that raw JSON doesn't need."""
    code = (
        "import sys, bert_operator.cluster.calls;"
        "print(sum(name.startswith('kubernetes.aio.client.models.') for name in sys.modules),"
        "sum(name.startswith('kubernetes.client.models.') for name in sys.modules))"
    )
    root = Path(__file__).parents[3] / "operator"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "0"]


@pytest.mark.parametrize(("status", "gone"), [(200, True), (404, True), (409, False)])
async def test_a_record_that_somebody_has_changed_stays_and_one_that_is_gone_is_gone(
    server: ApiServer,
    connection: Connection,
    status: int,
    gone: bool,  # noqa: FBT001
) -> None:
    server.say(status, "NotFound")
    record = a_child(names.ARTIFACT_KIND, "onnx-1")
    assert await Stores(connection).withdraw(record) is gone
    meta = record["metadata"]
    same = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    assert server.requests[0].body == {"preconditions": same}
