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
