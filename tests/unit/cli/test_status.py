"""What `bertctl status` shows of a world as the operator left it. tests/cluster reads a real API server."""

from typing import Any, cast

import pytest

from bert_operator.api import names
from bert_operator.api.report import ExitCode
from bert_operator.cli import screen, status
from bert_operator.cli.cluster import Reader
from support import builders
from support.fake_cluster import FakeCluster


class Shelf:
    """Reads from a FakeCluster what the reader would read from a real one."""

    namespace = builders.NAMESPACE

    def __init__(self, world: FakeCluster, *, log: str = "") -> None:
        self.world, self.log = world, log

    def bert(self, name: str) -> dict[str, Any]:
        return self.world.bert(name)

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.world.objects.get((kind, name))

    def list(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        return [item for item in self.world.all(kind) if _selected(item, selector)]

    def last_line(self, pod: str, container: str) -> str:
        return self.log.format(pod=pod, container=container) if self.log else ""


def _selected(item: dict[str, Any], selector: str) -> bool:
    labels = item["metadata"].get("labels") or {}
    owners = {ref["uid"] for ref in item["metadata"].get("ownerReferences", ())}
    if " in (" in selector:
        key, _, values = selector.partition(" in (")
        return labels.get(key) in values.rstrip(")").split(",")
    wanted = dict(term.split("=") for term in selector.split(",") if term)
    uid = wanted.pop("batch.kubernetes.io/controller-uid", None)
    return (uid is None or uid in owners) and labels.items() >= wanted.items()


def gathered(world: FakeCluster, *, log: str = "") -> dict[str, Any]:
    return status.gather(cast(Reader, Shelf(world, log=log)), "minilm")


@pytest.fixture
def world() -> FakeCluster:
    return FakeCluster(builders.bert(), builders.claim(), builders.claim("models", uid="models", ours=False))


@pytest.fixture
def serving(world: FakeCluster) -> FakeCluster:
    for _ in world.settle(builders.settings()):
        pass
    return world


def pod(world: FakeCluster, *containers: dict[str, Any], ready: bool, verify: bool = True) -> None:
    """A serving pod in which preflight has ended and these containers are as given."""
    deployment = world.all("Deployment")[0]
    template = deployment["spec"]["template"]
    spec = {"initContainers": [{"name": name} for name in ("preflight", *(["verify"] if verify else []))]}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    states = {"initContainerStatuses": [builders.terminated("preflight"), *containers], "conditions": conditions}
    metadata = {"name": "minilm-0b5f3c-x", "labels": template["metadata"]["labels"]}
    world.put(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": states | {"phase": "Running"}}
    )


def test_a_served_one_shows_endpoint_figures_and_verified_pods(serving: FakeCluster) -> None:
    pod(serving, builders.running("verify", ready=True), ready=True)
    text = screen.text(gathered(serving))
    assert text.startswith("team/minilm: Ready, triton, 1/1 pods ready\nhttp:    http://minilm.team.svc:8000\n")
    row = next(line for line in text.splitlines() if line.startswith("minilm/1 "))
    report = builders.report()
    assert row.split() == [
        *("minilm/1", "Built", "fp32", "0.9999999", "2.0e-06", f"sha256:{builders.DIGEST[:12]}"),
        serving.all(names.ARTIFACT_KIND)[0]["metadata"]["name"],
    ]
    assert report.precision == "fp32"
    assert "minilm-0b5f3c-x   Running   ready     matched" in text
    assert "next:" not in text
    assert all(line.startswith("✓") for line in text.splitlines() if " Accepted " in line or " Degraded " in line)


def test_a_precision_that_was_not_reached_has_a_star() -> None:
    version = {"version": 1, "stage": "Built", "precision": "fp32"}
    told, kept = (screen._precision(version | more) for more in ({"precisionReason": "int8 was asked for"}, {}))
    assert (told, kept, screen._precision({})) == ("fp32*", "fp32", "-")


def test_a_build_shows_its_step_and_last_log_line(world: FakeCluster) -> None:
    world.carry_out(world.plan(builders.settings()))
    (job,) = world.all("Job")
    done = [builders.terminated("fetch"), builders.terminated("inspect")]
    world._build_pod(job, [*done, builders.running("answer")], [builders.waiting("publish")], "Running")
    world.carry_out(world.plan(builders.settings()))
    containers = [{"name": name} for name in ("fetch", "inspect", "answer", "convert", "compare")]
    world.all("Pod")[0]["spec"] = {"initContainers": containers, "containers": [{"name": "publish"}]}
    view = gathered(world, log="[{container}] 3 of 12 texts")
    assert view["stage"] == "Answering"
    text = screen.text(view)
    assert f"Job {job['metadata']['name']} (model minilm, attempt 1): Running, step answer (3 of 6)" in text
    assert "last log line: [answer] 3 of 12 texts" in text
    assert "no serving pod" in text


def test_a_failed_build_leads_with_the_next_step(world: FakeCluster) -> None:
    world.carry_out(world.plan(builders.settings()))
    (job,) = world.all("Job")
    world.fail_job(job, "fetch", ExitCode.USER_ERROR, builders.failure())
    world.carry_out(world.plan(builders.settings()))
    view = gathered(world)
    text = screen.text(view)
    assert text.splitlines()[0] == "team/minilm: BuildFailed, triton, 0/1 pods ready"
    assert "\nnext: write y\n" in text
    assert view["jobs"][0]["state"] == "Failed"
    assert "SourceNotFound: no folder 'x'; next: write y" in text


@pytest.mark.parametrize(
    ("container", "verify"),
    [
        (builders.running("verify"), "asking"),
        (builders.waiting("verify"), "waiting"),
        (builders.terminated("verify", 1, builders.failure("VerificationFailed", "output differs", "")), "failed"),
    ],
)
def test_a_pod_says_how_far_its_verification_is(serving: FakeCluster, container: dict[str, Any], verify: str) -> None:
    pod(serving, container, ready=False)
    (found,) = gathered(serving)["pods"]
    assert (found["verify"], found["ready"]) == (verify, False)
    assert ("output differs" in found["problem"]) == (verify == "failed")


def test_a_pod_without_verification_says_so(serving: FakeCluster) -> None:
    pod(serving, ready=True, verify=False)
    assert gathered(serving)["pods"][0]["verify"] == "off"


def test_an_unseen_spec_is_told_before_anything_else(serving: FakeCluster) -> None:
    serving.bert()["metadata"]["generation"] += 1
    assert "has not seen the newest spec" in screen.text(gathered(serving)).splitlines()[1]
    fresh = FakeCluster(builders.bert())
    assert gathered(fresh)["stage"] == "Unseen"
    assert "no condition yet" in screen.text(gathered(fresh))


PLAN = {
    "instances": 2,
    "maxBatchSize": 8,
    "batching": True,
    "replicas": 3,
    "concurrency": 4,
    "requestsPerSecond": "250",
    "latencyMilliseconds": "18.5",
    "percentile": 95,
    "key": "ab",
    "why": "cheapest below 20 ms",
}


def test_the_tuning_plan_is_shown_once_there_is_one(serving: FakeCluster) -> None:
    tuning: dict[str, Any] = {"mode": "Recommend", "model": "minilm", "job": "profile-x"}
    serving.bert()["status"]["tuning"] = tuning
    metadata = {
        "name": "profile-x",
        "labels": {names.MANAGED_BY: names.MANAGER},
        "annotations": {f"{names.GROUP}/model": "minilm"},
        "ownerReferences": [{"uid": builders.BERT_UID}],
    }
    serving.put({"kind": "Job", "metadata": metadata})
    serving.put({"kind": "Job", "metadata": metadata | {"name": "of-another", "ownerReferences": [{"uid": "x"}]}})
    text = screen.text(gathered(serving))
    assert "tuning (Recommend) of model minilm: not measured yet" in text
    assert "Job profile-x (model minilm, attempt 1): Waiting, no step has started" in text
    tuning |= {"measuredAt": "2026-11-22T12:00:00Z", "points": 9}
    assert "minilm: nothing measured meets the objective" in screen.text(gathered(serving))
    tuning["plan"] = PLAN
    text = screen.text(gathered(serving))
    assert (
        "minilm: 2 instances, batches up to 8, 3 replicas: 250 requests/s a pod at 18.5 ms (p95)\n"
        "  why: cheapest below 20 ms\n  9 points, measured 2026-11-22T12:00:00Z"
    ) in text
    serving.objects["Job", "profile-x"]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    text = screen.text(gathered(serving))
    assert "profile-x" not in text
    assert "of-another" not in text


def test_pods_are_counted_against_what_an_autoscaler_or_a_plan_asks_for(serving: FakeCluster) -> None:
    """Found on a real node: a tuned one of `replicas: 1` showed 2/1 pods."""
    serving.all("Deployment")[0]["spec"]["replicas"] = 3
    serving.bert()["status"]["readyReplicas"] = 2
    assert gathered(serving)["ready"] == "2/3"
