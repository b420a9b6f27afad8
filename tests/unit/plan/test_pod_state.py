"""What is read from pods: stages, reports, and trouble in the words of whoever knows best."""

from typing import Any

import pytest

from bert_operator import pod_state
from bert_operator.api.report import ExitCode
from support import builders as b


def pod(init: list[Any] | None = None, main: list[Any] | None = None, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p"},
        "status": {"initContainerStatuses": init or [], "containerStatuses": main or []} | status,
    }


@pytest.mark.parametrize(
    ("init", "stage"),
    [
        ([], ""),
        ([b.running("fetch")], "fetch"),
        ([b.terminated("fetch"), b.running("inspect")], "inspect"),
        ([b.terminated(step) for step in ("fetch", "inspect", "answer", "convert", "compare")], "publish"),
        ([b.terminated("fetch"), b.terminated("inspect", 65)], "inspect"),
    ],
)
def test_the_stage_is_the_first_step_that_has_not_gone_well(init: list[Any], stage: str) -> None:
    main = [b.waiting("publish")] if init else []
    assert pod_state.stage(pod(init, main)) == stage


def test_a_report_survives_the_way_through_the_termination_message() -> None:
    text = b.report().model_dump_json(by_alias=True)
    assert pod_state.report(pod(main=[b.terminated("publish", message=text)])) == b.report()


@pytest.mark.parametrize("text", ["", "Killed", '{"format": "onnx"}', b.report().model_dump_json()[:200]])
def test_a_torn_report_is_none(text: str) -> None:
    assert pod_state.report(pod(main=[b.terminated("publish", message=text)])) is None


T = [f"2026-11-23T19:{minutes:02}:00Z" for minutes in (0, 10, 20, 30)]


def ended(code: int, began: str, at: str, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": at}}


def serving(status: dict[str, Any], *, since: str, began: str) -> dict[str, Any]:
    """A serving pod that isn't ready since then, whose server runs since then."""
    found = pod(
        main=[{**status, "state": {"running": {"startedAt": began}}}],
        conditions=[{"type": "ContainersReady", "status": "False", "lastTransitionTime": since}],
    )
    found["metadata"]["namespace"] = "team"
    probe = {"periodSeconds": 3, "failureThreshold": 40}
    return found | {"spec": {"containers": [{"name": "server", "startupProbe": probe}]}}


CASES: list[tuple[str, dict[str, Any], str, str, bool]] = [
    (
        "a step explains itself",
        pod([b.terminated("fetch", ExitCode.USER_ERROR, b.failure("SourceNotFound", "no x", "write y"))]),
        "SourceNotFound",
        "no x; next: write y",
        False,
    ),
    (
        "one sentence goes on to the next step",
        pod([b.terminated("fetch", ExitCode.USER_ERROR, b.failure("SourceNotFound", "No x.", "Write y."))]),
        "SourceNotFound",
        "No x; next: Write y.",
        False,
    ),
    (
        "a passing fault",
        pod([b.terminated("fetch", ExitCode.PASSING, b.failure("HubUnreachable", "no answer", ""))]),
        "HubUnreachable",
        "no answer",
        True,
    ),
    (
        "out of memory",
        pod([b.terminated("convert", 137, reason="OOMKilled")]),
        "OutOfMemory",
        "next: raise builds.resources.limits.memory",
        False,
    ),
    ("killed from outside", pod([b.terminated("convert", 137)]), "ContainerKilled", "was killed (SIGKILL)", True),
    ("a crash", pod(main=[b.terminated("server", 1, "boom")]), "ContainerFailed", "exited with code 1: boom", False),
    (
        "a crash loop between two tries",
        pod(main=[b.running("server") | {"lastState": b.terminated("server", 1, "boom")["state"]}]),
        "ContainerFailed",
        "boom",
        False,
    ),
    (
        "a crash long before",
        serving(b.running("server") | {"started": True, "lastState": ended(1, T[0], T[1])}, since=T[3], began=T[2]),
        "ContainerNotReady",
        "container server runs, but no longer answers its readiness probe",
        True,
    ),
    (
        "a server that hangs",
        serving(b.running("server") | {"started": True}, since=T[3], began=T[0]),
        "ContainerNotReady",
        "next: kubectl logs -n team p -c server",
        True,
    ),
    (
        "a start that takes too long and is killed",
        serving(b.running("server") | {"started": False, "lastState": ended(137, T[1], T[3])}, since=T[0], began=T[3]),
        "StartupTimedOut",
        "container server wasn't ready 117 s after its start",
        False,
    ),
    (
        "a start that takes too long and ends in peace",
        serving(b.running("server") | {"started": False, "lastState": ended(0, T[1], T[3])}, since=T[0], began=T[3]),
        "StartupTimedOut",
        "server.resources.limits.cpu",
        False,
    ),
    (
        "a slow start that ends for want of memory",
        serving(
            b.running("server") | {"started": False, "lastState": ended(137, T[1], T[3], reason="OOMKilled")},
            since=T[0],
            began=T[3],
        ),
        "OutOfMemory",
        "server.resources.limits.memory",
        False,
    ),
    (
        "a slow start that ends by itself",
        serving(b.running("server") | {"started": False, "lastState": ended(1, T[1], T[3])}, since=T[0], began=T[3]),
        "ContainerFailed",
        "exited with code 1",
        False,
    ),
    (
        "a crash loop in the moment between two crashes in which the server is up and not yet ready",
        serving(b.running("server") | {"started": True, "lastState": ended(1, T[0], T[1])}, since=T[1], began=T[2]),
        "ContainerFailed",
        "exited with code 1",
        False,
    ),
    (
        "killed after it had been ready for long",
        serving(b.running("server") | {"started": False, "lastState": ended(137, T[0], T[3])}, since=T[2], began=T[3]),
        "ContainerKilled",
        "failed its liveness probe",
        True,
    ),
    (
        "no image",
        pod(main=[b.waiting("server", "ImagePullBackOff") | {"image": "nowhere/x:1"}]),
        "ImagePullFailed",
        "nowhere/x:1",
        False,
    ),
    (
        "a missing Secret",
        pod([b.waiting("fetch", "CreateContainerConfigError", 'secret "hub" not found')]),
        "ContainerConfigError",
        'secret "hub" not found',
        False,
    ),
    (
        "no node",
        pod(
            conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]
        ),
        "Unschedulable",
        "0/1 nodes",
        False,
    ),
    ("evicted", pod(phase="Failed", reason="Evicted", message="node was low on memory"), "Evicted", "low on", True),
]


@pytest.mark.parametrize(("live", "reason", "words", "passing"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_trouble_is_named(live: dict[str, Any], reason: str, words: str, *, passing: bool) -> None:
    problem = pod_state.problem(live)
    assert problem is not None
    assert problem.reason == reason
    assert words in problem.message
    assert problem.passing is passing


def test_a_pod_that_is_told_to_end_need_not_answer() -> None:
    live = serving(b.running("server") | {"started": True}, since=T[3], began=T[0])
    live["metadata"]["deletionTimestamp"] = T[3]
    assert pod_state.problem(live) is None


def test_of_a_guard_that_is_late_once_nothing_is_said() -> None:
    live = serving(b.running("verify") | {"started": True}, since=T[3], began=T[0])
    assert pod_state.problem(live) is None


def test_each_pod_of_a_server_is_told_of_in_the_same_words() -> None:
    told = set()
    for name in ("minilm-a", "minilm-b"):
        live = serving(b.running("server") | {"started": True}, since=T[3], began=T[0])
        live["metadata"] |= {"name": name, "labels": {"app.kubernetes.io/instance": "minilm"}}
        found = pod_state.problem(live)
        assert found is not None
        told.add(found.message)
    (text,) = told
    assert "kubectl logs -n team -l app.kubernetes.io/instance=minilm" in text


@pytest.mark.parametrize(
    ("since", "began"),
    [(T[0], T[1]), (T[1], T[1])],
    ids=["a pod that has just started", "one that started and became unready at once"],
)
def test_a_server_that_was_never_ready_in_this_run_is_still_starting(since: str, began: str) -> None:
    assert pod_state.problem(serving(b.running("server") | {"started": True}, since=since, began=began)) is None


@pytest.mark.parametrize(
    ("name", "limit", "says"),
    [
        ("convert", "4Gi", "at its limit of 4Gi; next: write builds.resources.limits.memory: 8Gi"),
        ("compile", "1500M", "at its limit of 1500M; next: write builds.resources.limits.memory: 2862Mi"),
        ("server", "512Mi", "at its limit of 512Mi; next: write server.resources.limits.memory: 1Gi"),
        ("server", "", "container server ran out of memory; next: raise server.resources.limits.memory"),
        ("verify", "256Mi", "which no field sets; next: lower build.maxSequenceLength, or write rollout.verify: false"),
        ("preflight", "256Mi", "which no field sets; next: report this"),
        ("prepare", "1Gi", "which no field sets; next: report this"),
        ("profile", "1Gi", "which no field sets; next: lower tuning.search.maxConcurrency"),
    ],
)
def test_out_of_memory_names_how_much_it_had_and_what_a_user_can_set(name: str, limit: str, says: str) -> None:
    live = pod([b.terminated(name, 137, reason="OOMKilled")])
    live["spec"] = {"initContainers": [{"name": name, "resources": {"limits": {"memory": limit} if limit else {}}}]}
    problem = pod_state.problem(live)
    assert problem is not None
    assert says in problem.message


@pytest.mark.parametrize(
    "live",
    [
        pod(),
        pod([b.running("fetch")], [b.waiting("publish")]),
        pod(main=[b.running("server", ready=True) | {"lastState": b.terminated("server", 1)["state"]}]),
    ],
    ids=["new", "under way", "ready again after a crash"],
)
def test_no_trouble_is_made_up(live: dict[str, Any]) -> None:
    assert pod_state.problem(live) is None
