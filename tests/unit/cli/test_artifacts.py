"""`bertctl artifacts` on a world in memory: what is shown, what is refused, what is left whatever happens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from bert_operator import usage
from bert_operator.api import names
from bert_operator.api.maintenance import StoreTask
from bert_operator.cli import artifacts, store_jobs
from bert_operator.cli.cluster import Editor
from bert_operator.cli.terminal import FailureError
from bert_operator.objects import artifact, store_job
from support import builders
from support.command_line import Ran, bertctl
from support.fake_cluster import FakeCluster
from unit.cli.test_status import Shelf

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
OLD = "old"


class Hands(Shelf):
    """Changes the world as the API server would."""

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.world.put(manifest)
        if manifest["kind"] == "Job":
            owner = self.world.objects["Job", manifest["metadata"]["name"]]["metadata"]["uid"]
            meta = {"name": f"{manifest['metadata']['name']}-x", "ownerReferences": [{"uid": owner}]}
            self.world.put({"kind": "Pod", "metadata": meta, "spec": {}, "status": {"phase": "Running"}})
        return self.world.objects[manifest["kind"], manifest["metadata"]["name"]]

    def delete(self, live: dict[str, Any], kind: str, *, unchanged: bool = False) -> bool:
        found = self.world.objects.get((kind, live["metadata"]["name"]))
        same = found and all(
            found["metadata"].get(key) == live["metadata"].get(key) for key in ("uid", "resourceVersion")
        )
        if not same or not (unchanged or kind == "Job"):
            return False
        del self.world.objects[kind, live["metadata"]["name"]]
        return True


class Jobs:
    """Stands for the Job: says and does what the real one would."""

    def __init__(self) -> None:
        self.tasks: list[StoreTask] = []
        self.end = "removed"
        self.during: Callable[[], None] = lambda: None

    def run(self, _editor: Editor, task: StoreTask, _where: store_jobs.Ground, said: list[str]) -> bool:
        self.tasks.append(task)
        self.during()
        said += [f"[{task.action}] {one.folder}: {self.end}" for one in task.artifacts]
        return self.end == "removed"


@pytest.fixture
def world() -> FakeCluster:
    """One served artifact, and one that nothing uses."""
    found = FakeCluster(builders.bert(), builders.claim(), builders.claim("models", uid="models", ours=False))
    for _ in found.settle(builders.settings()):
        pass
    found.bert()["status"]["observedGeneration"] = found.bert()["metadata"]["generation"]
    other = builders.report(artifact_key="9" * 32, size_bytes=3 << 30)
    found.put(artifact.manifest(other, builders.claim(), "f" * 32, None))
    return found


@pytest.fixture
def jobs(world: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    made = Jobs()
    monkeypatch.setattr(artifacts, "Editor", lambda **_: Hands(world))
    monkeypatch.setattr(store_jobs, "run", made.run)
    return made


def records(world: FakeCluster) -> list[str]:
    return [str(record["metadata"]["name"]) for record in world.all(names.ARTIFACT_KIND)]


def unused(world: FakeCluster) -> str:
    return next(name for name in records(world) if "9" * 32 in name)


def live(world: FakeCluster) -> str:
    return next(name for name in records(world) if "9" * 32 not in name)


def rm(*arguments: str) -> Ran:
    return bertctl("artifacts", "rm", *arguments)


def test_a_list_shows_what_it_is_and_who_uses_it(world: FakeCluster, jobs: Jobs) -> None:
    del jobs
    rows = artifacts.gather(world.all(names.ARTIFACT_KIND), artifacts.world(cast(Editor, Hands(world))), NOW)
    lines = {line.split()[0]: line for line in artifacts.screen(rows).splitlines()}
    assert lines["NAME"].split() == ["NAME", "FORMAT", "MODEL", "SOURCE", "SIZE", "AGE", "USED", "BY"]
    assert lines[unused(world)].split()[1:] == [
        *("onnx", "fp32", "BertModel", f"sha256:{builders.DIGEST[:12]}", "3.0", "GiB", "1h", "-"),
    ]
    assert lines[live(world)].split()[-1] == "minilm"


def test_what_is_served_is_refused_by_the_name_of_its_user(world: FakeCluster, jobs: Jobs) -> None:
    before = records(world)
    ran = rm(unused(world), live(world))
    assert ran.code == 1
    assert f"nothing was removed: {live(world)} is used by minilm" in ran.err
    assert (jobs.tasks, records(world)) == ([], before)


def deployment(world: FakeCluster) -> dict[str, Any]:
    (found,) = world.all("Deployment")
    return found


def forget(world: FakeCluster) -> None:
    """The status is lost and the Deployment's annotation as well: only what mounts the folder tells."""
    world.bert()["status"]["models"] = []
    deployment(world)["metadata"]["annotations"].pop(names.ARTIFACTS_ANNOTATION)


def by_annotation(world: FakeCluster) -> None:
    annotation = deployment(world)["metadata"]["annotations"][names.ARTIFACTS_ANNOTATION]
    forget(world)
    deployment(world)["metadata"]["annotations"][names.ARTIFACTS_ANNOTATION] = annotation
    deployment(world)["spec"]["template"]["spec"]["volumes"] = []


def moved(world: FakeCluster, kind: str, **status: Any) -> None:
    """Nothing is left but an object of this kind that mounts it."""
    forget(world)
    template = deployment(world)["spec"]["template"]
    del world.objects["Deployment", deployment(world)["metadata"]["name"]]
    spec = template["spec"] if kind == "Pod" else {"template": template}
    labels = {**template["metadata"]["labels"], names.MANAGED_BY: names.MANAGER}
    world.put({"kind": kind, "metadata": {"name": "left", "labels": labels}, "spec": spec, "status": status})


def by_spec_alone(world: FakeCluster) -> None:
    """An engine is compiled from it: everything else names the engine."""
    moved(world, "Pod", phase="Succeeded")
    world.bert()["spec"]["models"][0]["versions"][0]["source"] = {"artifact": {"name": live(world)}}


def compiled_from(world: FakeCluster) -> None:
    moved(world, "Pod", phase="Succeeded")
    env = [
        {"name": names.BUILD_REQUEST_ENV, "value": f'{{"onnx": {{"artifactKey": "{builders.report().artifact_key}"}}}}'}
    ]
    volumes = [{"name": "store", "persistentVolumeClaim": {"claimName": "minilm-store"}}]
    pod = {"containers": [{"name": "stage", "env": env}], "volumes": volumes}
    labels = {names.MANAGED_BY: names.MANAGER}
    world.put({"kind": "Job", "metadata": {"name": "compiling", "labels": labels}, "spec": {"template": {"spec": pod}}})


@pytest.mark.parametrize(
    ("trace", "user"),
    [
        (lambda _world: None, "minilm"),
        (forget, "minilm"),
        (by_annotation, "minilm"),
        (by_spec_alone, "minilm"),
        (lambda world: moved(world, "ReplicaSet"), "minilm"),
        (lambda world: moved(world, "Pod", phase="Pending"), "minilm"),
        (compiled_from, "Job/compiling"),
    ],
)
def test_any_trace_of_a_user_keeps_it(
    world: FakeCluster, jobs: Jobs, trace: Callable[[FakeCluster], None], user: str
) -> None:
    trace(world)
    ran = rm(live(world))
    assert f"is used by {user}" in ran.err
    assert jobs.tasks == []


def test_a_pod_that_has_ended_keeps_nothing(world: FakeCluster, jobs: Jobs) -> None:
    moved(world, "Pod", phase="Failed")
    assert rm(live(world), "--image", "operator:1").code == 0
    assert [one.folder[:4] for one in jobs.tasks[0].artifacts] == ["onnx"]


def test_the_unused_go_with_their_records(world: FakeCluster, jobs: Jobs) -> None:
    gone, kept = unused(world), live(world)
    assert rm("--unused").code == 0
    (task,) = jobs.tasks
    assert (task.action, task.claim, [one.folder for one in task.artifacts]) == (
        "rm", "minilm-store", [f"onnx-{'9' * 32}"],
    )  # fmt: skip
    assert task.listed_at > 0
    assert records(world) == [kept]
    assert gone not in records(world)


@pytest.mark.parametrize(
    ("arguments", "left"), [(["--dry-run"], 2), (["--older-than", "30d"], 2), (["--older-than", "1m"], 1)]
)
def test_only_what_is_old_enough_goes_and_a_dry_run_shows_it(
    world: FakeCluster, jobs: Jobs, arguments: list[str], left: int
) -> None:
    ran = rm("--unused", *arguments)
    assert ran.code == 0
    assert len(records(world)) == left
    assert (unused(world) in ran.out) == (arguments == ["--dry-run"]) if left > 1 else not ran.err
    assert len(jobs.tasks) == 2 - left


def test_an_artifact_that_the_job_keeps_has_its_record_again(world: FakeCluster, jobs: Jobs) -> None:
    jobs.end = "KEPT: it was found again by a build"
    before = world.objects[names.ARTIFACT_KIND, unused(world)]["spec"]
    assert rm("--unused").code == 1
    assert world.objects[names.ARTIFACT_KIND, unused(world)]["spec"] == before


def test_a_job_that_never_ran_leaves_everything(
    world: FakeCluster, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> bool:
        raise FailureError("can't create Job: forbidden")

    monkeypatch.setattr(store_jobs, "run", refuse)
    before = records(world)
    ran = rm("--unused")
    assert (ran.code, records(world)) == (1, before)
    assert "forbidden" in ran.err
    assert jobs.tasks == []


@dataclass(frozen=True, kw_only=True)
class Broken:
    """How a real run of a Job is seen when the API server's answers get lost."""

    followed: int
    """Lines that come before the connection breaks."""
    phase: str | None
    """What the pod is when it is looked at next; None: it is gone."""
    log: tuple[str, ...] | None
    """What it has said in all; None: nobody can read it any more."""


def play(monkeypatch: pytest.MonkeyPatch, broken: Broken) -> None:
    """The Job's pod, its log and what of both can be seen."""

    def end(hands: Hands, pod: str) -> Iterator[str]:
        if broken.phase is None:
            del hands.world.objects["Pod", pod]
        else:
            hands.world.objects["Pod", pod]["status"]["phase"] = broken.phase
        return iter((broken.log or ())[: broken.followed])

    monkeypatch.setattr(Hands, "follow", lambda hands, pod, _container: end(hands, pod), raising=False)
    whole = None if broken.log is None else list(broken.log)
    monkeypatch.setattr(Hands, "whole_log", lambda *_: whole, raising=False)


FIRST, SECOND = (f"onnx-{digit * 32}" for digit in "89")
GONE, KEPT, TOO_OLD = f"[rm] {FIRST}: removed", f"[rm] {SECOND}: KEPT: wanted", "ListTooOld: Nothing is removed"


@pytest.mark.parametrize(
    ("broken", "recorded"),
    [
        pytest.param(Broken(followed=0, phase="Succeeded", log=None), [], id="done-without-a-word"),
        pytest.param(Broken(followed=1, phase="Failed", log=(GONE, KEPT)), [SECOND], id="the-log-broke-off"),
        pytest.param(Broken(followed=0, phase="Failed", log=None), [], id="nobody-knows"),
        pytest.param(Broken(followed=1, phase=None, log=None), [], id="the-pod-was-deleted"),
        pytest.param(Broken(followed=0, phase="Failed", log=()), [SECOND], id="killed-at-the-first"),
        pytest.param(Broken(followed=0, phase="Failed", log=(TOO_OLD,)), [FIRST, SECOND], id="it-refused"),
    ],
)
def test_no_record_comes_back_of_what_may_be_gone(
    world: FakeCluster, monkeypatch: pytest.MonkeyPatch, broken: Broken, recorded: list[str]
) -> None:
    monkeypatch.setattr(artifacts, "Editor", lambda **_: Hands(world))
    play(monkeypatch, broken)
    world.put(artifact.manifest(builders.report(artifact_key="8" * 32), builders.claim(), "e" * 32, None))
    served = next(name for name in records(world) if not name.startswith((FIRST, SECOND)))
    ran = rm("--unused")
    assert ran.code == (broken.phase != "Succeeded")
    assert [name[:37] for name in records(world) if name != served] == recorded
    assert ran.out.splitlines() == list(broken.log or ())
    assert [job for job in world.all("Job") if job["metadata"]["name"].startswith("bert-store")] == []
    assert ("it isn't known what was removed" in ran.err) == (ran.code == 1 and broken.log is None)


def test_who_comes_between_the_list_and_the_removal_is_seen(
    world: FakeCluster, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is gone by then, so nobody can come later."""
    delete = Hands.delete

    def meanwhile(hands: Hands, item: dict[str, Any], kind: str, *, unchanged: bool = False) -> bool:
        done = delete(hands, item, kind, unchanged=unchanged)
        versions = [{"version": 2, "artifact": item["metadata"]["name"]}]
        world.bert()["status"]["models"].append({"name": "new", "versions": versions})
        return done

    monkeypatch.setattr(Hands, "delete", meanwhile)
    before = records(world)
    ran = rm("--unused")
    assert (ran.code, records(world), jobs.tasks) == (1, before, [])
    assert "is used by minilm" in ran.err


@pytest.mark.parametrize("who", ["a build", "a new BertDeployment"])
def test_it_waits_for_those_of_whom_nobody_knows_yet_what_they_want(world: FakeCluster, jobs: Jobs, who: str) -> None:
    if who == "a build":
        labels = {names.MANAGED_BY: names.MANAGER, names.COMPONENT_LABEL: "build"}
        volumes = [{"name": "store", "persistentVolumeClaim": {"claimName": "minilm-store"}}]
        spec = {"template": {"spec": {"volumes": volumes}}}
        world.put({"kind": "Job", "metadata": {"name": "building", "labels": labels}, "spec": spec})
    else:
        world.bert()["metadata"]["generation"] += 1
    before = records(world)
    ran = rm("--unused")
    assert (ran.code, records(world), jobs.tasks) == (1, before, [])
    assert "claim minilm-store is about to be used by" in ran.err


def test_a_record_that_has_changed_is_left_alone(
    world: FakeCluster, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hands, "delete", lambda *_, **__: False)
    before = records(world)
    ran = rm("--unused")
    assert (ran.code, records(world), jobs.tasks) == (1, before, [])
    assert "has changed since it was looked at" in ran.err


def test_of_a_deleted_claim_only_the_record_is_left_to_remove(world: FakeCluster, jobs: Jobs) -> None:
    world.objects["PersistentVolumeClaim", "minilm-store"]["metadata"]["uid"] = "a new one"
    assert rm("--unused").code == 0
    assert (jobs.tasks, len(records(world))) == ([], 1)
    ran = bertctl("artifacts", "verify")
    assert ran.code == 1
    assert "its claim minilm-store was deleted, and the artifact with it" in ran.err


def test_verify_asks_for_all_of_a_claim_or_for_the_named(world: FakeCluster, jobs: Jobs) -> None:
    assert bertctl("artifacts", "verify").code == 0
    assert bertctl("artifacts", "verify", unused(world)).code == 0
    every, one = jobs.tasks
    assert (len(every.artifacts), every.whole, len(one.artifacts), one.whole) == (2, True, 1, False)
    jobs.end = "DAMAGED: model.onnx"
    assert bertctl("artifacts", "verify").code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name the artifacts to remove"),
        (["x", "--unused"], "name the artifacts to remove"),
        (["onnx-nobody"], "there is no BertArtifact 'onnx-nobody'"),
        (["--unused", "--older-than", "7 days"], "write a number with d, h, m or s"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_write(
    world: FakeCluster, jobs: Jobs, arguments: list[str], says: str
) -> None:
    ran = rm(*arguments)
    assert (ran.code, jobs.tasks, len(records(world))) == (1, [], 2)
    assert says in ran.err


def test_the_image_is_that_of_the_serving_pods_or_asked_for(world: FakeCluster) -> None:
    seen = artifacts.world(cast(Editor, Hands(world)))
    assert store_jobs.ground(seen, None).image == builders.settings().images.operator
    assert store_jobs.ground(seen, "mine:2").image == "mine:2"
    empty = usage.World(berts=[], deployments=[], replica_sets=[], pods=[], jobs=[])
    with pytest.raises(FailureError, match=r"give --image, e\.g\. --image .*kubectl get deployment"):
        store_jobs.ground(empty, None)


@pytest.mark.parametrize(("action", "read_only"), [("verify", True), ("rm", False)])
def test_the_pod_is_restricted_and_sees_the_claim_alone(action: Any, read_only: bool) -> None:  # noqa: FBT001
    task = StoreTask(action=action, claim="store", artifacts=[])
    wish = store_job.StoreJob(namespace="team", name="x", task=task, image="operator:1", one_node_claim=True)
    made = store_job.manifest(wish)
    spec = made["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert [volume["persistentVolumeClaim"] for volume in spec["volumes"]] == [
        {"claimName": "store", "readOnly": read_only}
    ]
    assert container["volumeMounts"][0]["readOnly"] is read_only
    assert "podAffinity" in spec["affinity"]
    assert made["metadata"]["labels"][names.MANAGED_BY] != names.MANAGER
