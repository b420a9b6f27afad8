"""The election on a real API server: whole operators, and candidates whose Lease is taken, deleted and labelled.

`tests/chaos/leader.py` kills and stops leaders many times and measures; this is what must hold at every change.
"""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from bert_operator.cluster.connection import Connection
from bert_operator.cluster.lease import Lease
from bert_operator.election import Terms
from bert_operator.leadership import Leadership
from bert_operator.metrics import Metrics
from support.kube_api import KubeApi
from support.operator_process import OperatorProcess, eventually, install_crds, operator

pytestmark = pytest.mark.cluster

SMALL: Final = "support.small_operator"
EAGER: Final = Terms(duration=15, renew_deadline=10, retry_period=0.2)
"""Quick to look, slow to give up: a loaded machine must not lose a Lease here."""
MERGE: Final = "application/merge-patch+json"


@pytest.fixture
def namespace(api: KubeApi) -> Iterator[str]:
    name = f"leader-{uuid4().hex[:8]}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    api.request("DELETE", f"/api/v1/namespaces/{name}")


# --- whole operators ----------------------------------------------------------------------------------------------


def create(api: KubeApi, namespace: str) -> Callable[[int], None]:
    """One BertDeployment; what is returned sets its replicas and waits until that has been seen to."""
    path = f"/apis/bertops.dev/v1alpha1/namespaces/{namespace}/bertdeployments"
    source = {"pvc": {"claimName": "weights"}}
    model = {"name": "m", "build": {"task": "feature-extraction"}, "versions": [{"version": 1, "source": source}]}
    spec = {"replicas": 1, "server": {"type": "triton"}, "storage": {"size": "1Gi"}, "models": [model]}
    body = {"apiVersion": "bertops.dev/v1alpha1", "kind": "BertDeployment", "metadata": {"name": "demo"}, "spec": spec}
    made = api.request("POST", path, body)
    assert made.code == 201, made.message

    def scale(replicas: int) -> None:
        patched = api.request("PATCH", f"{path}/demo", {"spec": {"replicas": replicas}}, content_type=MERGE)
        generation = patched.body["metadata"]["generation"]

        def seen() -> bool:
            return bool(
                (api.request("GET", f"{path}/demo").body.get("status") or {}).get("observedGeneration") == generation
            )

        eventually(f"{replicas} replicas are seen to", seen)

    return scale


def leads(process: OperatorProcess) -> bool:
    return bool(re.search(r"^leader_election_master_status\{.*\} 1$", process.get("/metrics")[1], re.MULTILINE))


def test_a_standby_is_ready_and_writes_nothing_until_the_leader_ends_and_then_goes_on_at_once(
    api: KubeApi, namespace: str, tmp_path: Path
) -> None:
    install_crds(api)
    election = {"leaderElection": {"namespace": namespace, "name": "bert-operator"}}
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    flags = ("-n", namespace)
    with (
        operator(api, folders[0], *flags, module=SMALL, settings=election) as first,
        operator(api, folders[1], *flags, module=SMALL, settings=election) as second,
    ):
        eventually("the first leads", lambda: leads(first))
        scale = create(api, namespace)
        scale(2)
        assert second.ready()
        assert not leads(second)
        assert (second.writes(), second.reconciles(), second.forbidden()) == (0, 0, 0)

        first.process.send_signal(signal.SIGTERM)
        eventually("the second leads", lambda: leads(second))
        scale(3)
        assert first.process.wait(10) == 0
        ours = [line["message"] for line in first.lines() if "Lease" in line["message"]]
        assert ours[-1] == f"gave Lease {namespace}/bert-operator back"


# --- candidates alone ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def candidate(
    namespace: str, name: str, identity: str
) -> AsyncIterator[tuple[Leadership, asyncio.Event, list[str]]]:
    """One who wants a Lease, in a thread of its own as in the operator."""
    lost: list[str] = []
    won = asyncio.Event()
    made = Leadership(
        lease=Lease(Connection(Metrics()), namespace, name),
        name=name,
        identity=identity,
        terms=EAGER,
        metrics=Metrics(),
        lost=lost.append,
    )
    made.start(won.set)
    try:
        yield made, won, lost
    finally:
        await made.stop()


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - the world gives no sign
            await asyncio.sleep(0.05)


@pytest.fixture
def lease(api: KubeApi, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Do something with Lease `a`: method, body -> the answer."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/a"

    def ask(method: str = "GET", body: dict[str, Any] | None = None) -> dict[str, Any]:
        return api.request(method, path, body, content_type=MERGE).body

    return ask


async def test_a_lease_is_kept_through_a_label_and_a_deletion_and_is_not_that_of_another_release(
    namespace: str, lease: Callable[..., dict[str, Any]]
) -> None:
    async with candidate(namespace, "a", "one") as (one, won, lost), candidate(namespace, "b", "other") as (other, *_):
        await asyncio.wait_for(won.wait(), 10)
        await until(other.leads)
        async with candidate(namespace, "a", "two") as (two, two_won, _):
            lease("PATCH", {"metadata": {"labels": {"team": "nlp"}}})
            renewed = lease()["spec"]["renewTime"]
            await until(lambda: lease()["spec"]["renewTime"] != renewed)
            assert lease()["metadata"]["labels"] == {"team": "nlp"}
            lease("DELETE")
            await until(lambda: lease().get("spec", {}).get("holderIdentity") == "one")
            assert (one.leads(), two.leads(), two_won.is_set(), lost) == (True, False, False, [])


async def test_a_lease_that_another_took_ends_its_leader_and_is_taken_up_when_that_one_is_silent(
    namespace: str, lease: Callable[..., dict[str, Any]]
) -> None:
    async with candidate(namespace, "a", "one") as (one, won, lost):
        await asyncio.wait_for(won.wait(), 10)
        lease("PATCH", {"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 1}})
        await until(lambda: lost)
        assert lost == ["Lease a is held by somebody now"]
        assert not one.leads()
        async with candidate(namespace, "a", "two") as (_, two_won, _):
            began = time.monotonic()
            await asyncio.wait_for(two_won.wait(), 10)
            assert time.monotonic() - began >= 1, "it was left the time that it said"
            spec = lease()["spec"]
            assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("two", 15, 1)
