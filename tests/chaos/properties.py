"""R4: every property of a BertDeployment is changed while it is served, and changed back.

On a resource that is served the API server takes each valid change, and refuses each invalid one with a message that
names the property. What a change comes to is what a fresh creation of the same spec comes to, and the way back leads
to the first state. A fresh one that never becomes ready says why, and so does the changed one, whose pods go on
serving. And something that the operator makes shows the change: see `effects`. Many resources are walked at once, each
of them through all operations on one property.
"""

import asyncio
import hashlib
import itertools
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bert_operator.api import names
from bert_operator.objects.identity import artifact_name, claim_label
from chaos import effects, oracles, state
from chaos.api import condition
from chaos.operations import GONE, Operation, changed, mentions
from chaos.place import POLL, QUIET, Lab, NeverError, Place
from chaos.seeds import PROVIDED, SEEDS, SETTINGS, groups, leaves
from chaos.stories import Result
from support import builders

CONVERGE: Final = 180.0
"""Seconds from a change to rest in the right state, with hundreds of resources: the controllers' time, not ours."""
NEVER: Final = 10.0
"""Seconds of rest after which what isn't ready never will be."""
_TOGETHER: Final = 8
_PATCH: Final = "application/json-patch+json"
_PRIORITIES: Final = {"chaos-first": 10, "chaos-other": 20}
_WAY: Final = re.compile(
    r"\.(generation|observedGeneration|terminatingReplicas|collisionCount)$"
    r"|^BertDeployment/[^/]*\.spec\b"
    r"|^BertDeployment/[^/]*\.metadata\.annotations\b"
    r"|deployment\.kubernetes\.io/(revision|revision-history|desired-replicas|max-replicas)$"
    r"|^(Deployment|Job|ReplicaSet|Pod|PersistentVolumeClaim)/.*\.conditions\[\w+\]\.\w+$"
    r"|^ReplicaSet/.*\.metadata\.annotations\b"
    r"|^PersistentVolumeClaim/.*\.accessModes\["  # a set: its order says nothing
    r"|^BertArtifact/.*\.requestKeys"
    r"|^Pod/.*\.metadata\.name$|^Service/.*\.spec\.clusterIPs?\b"
)
"""What tells of the way and not of the end: counters, random names, and other controllers' words of the last flip."""


@dataclass(kw_only=True)
class Step:
    """One operation, as it is played."""

    operation: Operation
    value: Any
    spec: Mapping[str, Any]
    twin: str
    """Name of the fresh creation of the same spec."""
    played: bool = False
    """Whether the API server has taken it, on a resource that is served."""


@dataclass(kw_only=True)
class Walk:
    """One resource that goes through all operations on one property."""

    name: str
    operations: list[Operation]
    steps: list[Step] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The property's."""
        return self.operations[0].node.label


@dataclass(kw_only=True)
class Stage:
    """One plan: resources of one seed, and fresh creations of what they are changed to."""

    place: Place
    seed: Mapping[str, Any]
    theirs: re.Pattern[str]
    walks: list[Walk]
    twin: str
    """Name of a resource that nobody changes: what differs from it says nothing."""
    result: Result
    fresh: dict[str, str] = field(default_factory=dict)
    """Spec as JSON -> name of its fresh creation."""
    first: dict[str, state.State] = field(default_factory=dict)
    ends: dict[str, state.State] = field(default_factory=dict)
    """Of fresh creations."""
    built: dict[str, state.State] = field(default_factory=dict)
    """Of both, with the Jobs that were once made for them."""
    mask: frozenset[str] = frozenset()
    counter: Iterable[int] = field(default_factory=itertools.count)


def plans() -> list[str]:
    """One for each part of each seed."""
    return [f"R4/{group}" for group in groups()]


async def run(lab: Lab, plan: str, namespace: str, _: object = None) -> Result:
    """Carry one plan out."""
    _, seed, group = plan.split("/")
    measured = {"operations": 0, "misoperations": 0, "refused": [], "leaves": [], "crd_leaves": len(leaves())}
    result = Result(plan=plan, measured=measured)
    walked = SEEDS[seed].operations("" if group == "spec" else group)
    async with Place(lab=lab, namespace=namespace, settings=SETTINGS) as place:
        numbers = itertools.count(1)
        walks = [Walk(name=_name(next(numbers)), operations=one) for one in walked]
        stage = Stage(
            place=place,
            seed=SEEDS[seed].spec,
            theirs=re.compile(SEEDS[seed].theirs),
            walks=walks,
            twin=_name(0),
            result=result,
            counter=numbers,
        )
        await _furnish(place)
        await place.start()
        await _begin(stage)
        for walk in walks:
            await _mistakes(stage, walk)
            await _choose(stage, walk)
        await _create_fresh(stage)
        for walk in walks:
            result.problems += effects.faults(f"{seed}/{walk.label}", _effects(stage, walk))
        for number in range(max(len(walk.steps) for walk in walks)):
            await _round(stage, number)
        result.problems += oracles.log_faults(place.operator.log, troubled=False)
        if ended := place.operator.ended_itself:
            result.problems.append(f"the operator ended by itself, {ended} times")
    result.measured["leaves"] = sorted(played(walks))
    return result


def played(walks: Iterable[Walk]) -> set[str]:
    """Labels of the properties that hold a value and had one changed."""
    return {walk.label for walk in walks if any(step.played and step.operation.node.leaf for step in walk.steps)}


def _name(number: int) -> str:
    """All of one length, and found in no other text."""
    return f"walk-{number:04d}"


async def _furnish(place: Place) -> None:
    """What the seeds speak of: a second claim, priorities, published artifacts."""
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await place.post("PersistentVolumeClaim", {"metadata": {"name": "other"}, "spec": claim})
    for name, value in _PRIORITIES.items():
        body = {"metadata": {"name": name}, "value": value}
        await place.lab.api.send("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", body)
    body = {"metadata": {"name": builders.GPU["runtimeClassName"]}, "handler": "runc"}
    await place.lab.api.send("POST", "/apis/node.k8s.io/v1/runtimeclasses", body)
    models = await place.get("PersistentVolumeClaim", "models")
    for name in PROVIDED:
        report = builders.report(artifact_key=_digits(name), manifest_sha256=_digits(name) * 2)
        spec = {
            "claimName": "models",
            "claimUid": (models or {})["metadata"]["uid"],
            "path": f"artifacts/onnx-{_digits(name)}",
            "requestKeys": [],
            "report": report.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        record = {"apiVersion": names.API_VERSION, "kind": names.ARTIFACT_KIND, "spec": spec}
        await place.post("BertArtifact", record | {"metadata": {"name": name, "labels": _LABELS}})


_LABELS: Final = {names.MANAGED_BY: names.MANAGER}


def _digits(name: str) -> str:
    """32 hexadecimal digits."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


async def _begin(stage: Stage) -> None:
    """Have the seed served many times."""
    specs = {walk.name: stage.seed for walk in stage.walks} | {stage.twin: stage.seed}
    await _create(stage.place, specs)
    await _rest(stage.place, specs)
    states = await _states(stage.place, specs)
    stage.mask = state.masked(*states.values())
    stage.first = states
    stage.built = await _states(stage.place, specs, jobs=True)
    if not _ready(await stage.place.get("BertDeployment", stage.twin) or {}):
        raise NeverError(f"the seed isn't ready: {_said(states[stage.twin])}")


async def _create(place: Place, specs: Mapping[str, Mapping[str, Any]]) -> None:
    room = asyncio.Semaphore(_TOGETHER)

    async def one(name: str, spec: Mapping[str, Any]) -> None:
        async with room:
            kind = {"apiVersion": names.API_VERSION, "kind": names.KIND}
            await place.create(kind | {"metadata": {"name": name}, "spec": spec})

    await asyncio.gather(*(one(name, spec) for name, spec in specs.items()))


async def _rest(place: Place, wanted: Iterable[str], limit: float = 180.0) -> None:
    """Wait until the operator has judged them all as they are, they are ready or never will be, and nothing stirs."""
    began = time.monotonic()
    while True:
        await place.quiet(QUIET, limit)
        berts = {one["metadata"]["name"]: one for one in await place.items("BertDeployment")}
        behind = [name for name in wanted if not _judged(berts[name])]
        enough = QUIET if all(_ready(berts[name]) for name in wanted) else NEVER
        if not behind and place.quiet_seconds >= enough:
            return
        if time.monotonic() - began > limit * place.lab.patience:
            raise NeverError(f"no rest within {limit:.0f} s; not judged: {behind}")
        await asyncio.sleep(POLL)


def _judged(bert: Mapping[str, Any]) -> bool:
    status, generation = bert.get("status") or {}, bert["metadata"]["generation"]
    seen = {one.get("observedGeneration") for one in status.get("conditions") or ()}
    return status.get("observedGeneration") == generation and seen == {generation}


async def _mistakes(stage: Stage, walk: Walk) -> None:
    """What is wrong is refused, by a message that names it, and changes nothing."""
    for one in walk.operations:
        if not one.wrong:
            continue
        stage.result.measured["misoperations"] += 1
        code, answer = await _patch(stage.place, walk.name, changed(stage.seed, one.where, one.values[0]))
        message = str(answer.get("message"))
        if code != 422:
            stage.result.problems.append(f"{_told(one)}: {_short(one.values[0])} was taken, with {code}: {message}")
        elif not mentions(message, one.where):
            stage.result.problems.append(f"{_told(one)}: the refusal doesn't name it: {message}")


async def _choose(stage: Stage, walk: Walk) -> None:
    """Find for each operation a value that the API server takes."""
    for one in walk.operations:
        if one.wrong:
            continue
        for value in one.values:
            spec = changed(stage.seed, one.where, value)
            code, answer = await _patch(stage.place, walk.name, spec, dryRun="All")
            if code == 200:
                known = json.dumps(spec, sort_keys=True)
                twin = stage.fresh.setdefault(known, _name(next(iter(stage.counter))))
                walk.steps.append(Step(operation=one, value=value, spec=spec, twin=twin))
                break
            message = str(answer.get("message"))
            stage.result.measured["refused"].append(f"{_told(one)} {_short(value)}: {message}"[:400])
            if not mentions(message, one.where):
                stage.result.problems.append(f"{_told(one)}: {_short(value)}: the refusal doesn't name it: {message}")


async def _patch(place: Place, name: str, spec: Mapping[str, Any], **query: str) -> tuple[int, dict[str, Any]]:
    body = [{"op": "replace", "path": "/spec", "value": spec}]
    return await place.lab.api.send("PATCH", place.path("BertDeployment", name), body, _PATCH, **query)


async def _create_fresh(stage: Stage) -> None:
    specs = {name: json.loads(text) for text, name in stage.fresh.items()}
    await _create(stage.place, specs)
    await _rest(stage.place, specs)
    stage.ends = await _states(stage.place, specs)
    stage.built |= await _states(stage.place, specs, jobs=True)


def _effects(stage: Stage, walk: Walk) -> dict[str, bool]:
    """Operation -> whether anything but the spec itself tells its fresh creation from the unchanged resource."""
    mask = state.masked(*(stage.built[name] for name in stage.first))
    seed = stage.built[stage.twin]
    return {
        step.operation.kind: any(
            not _aside(stage, one.path) for one in state.differences(stage.built[step.twin], seed, mask)
        )
        for step in walk.steps
    }


def _aside(stage: Stage, path: str) -> bool:
    """Whether a difference there says nothing of the end."""
    return bool(_WAY.search(path) or stage.theirs.search(path))


async def _round(stage: Stage, number: int) -> None:
    """One operation on each resource, and back."""
    steps = {walk.name: walk.steps[number] for walk in stage.walks if number < len(walk.steps)}
    for name, step in steps.items():
        step.played = await _sure(stage, name, step.spec)
    stage.result.measured["operations"] += sum(step.played for step in steps.values())
    ends = {name: (step, stage.ends[step.twin]) for name, step in steps.items()}
    await _reach(stage, ends, "afresh")
    for name in steps:
        await _sure(stage, name, stage.seed)
    back = {name: (step, stage.first[name]) for name, step in steps.items()}
    await _reach(stage, back, "at first")


async def _sure(stage: Stage, name: str, spec: Mapping[str, Any]) -> bool:
    code, answer = await _patch(stage.place, name, spec)
    if code != 200:
        stage.result.problems.append(f"{name} {json.dumps(spec)[:200]}: {answer.get('message')}")
    return code == 200


async def _reach(stage: Stage, wanted: Mapping[str, tuple[Step, state.State]], word: str) -> None:
    """Wait until all are as they should be, and rest; tell who isn't when time is up."""
    began = time.monotonic()
    wrong: dict[str, list[str]] = {name: ["no rest"] for name in wanted}
    while wrong and time.monotonic() - began < CONVERGE * stage.place.lab.patience:
        await asyncio.sleep(POLL)
        if min(stage.place.quiet_seconds, time.monotonic() - began) < QUIET:
            continue
        found = await _states(stage.place, wanted)
        wrong = {
            name: problems for name, (_, want) in wanted.items() if (problems := _wrong(stage, name, found[name], want))
        }
    stage.result.problems += [
        f"{_told(wanted[name][0].operation)} {_short(wanted[name][0].value)}, not as {word}: {problem}"
        for name, problems in wrong.items()
        for problem in problems
    ]


def _wrong(stage: Stage, name: str, found: state.State, want: state.State) -> list[str]:
    """What is not as it should be. Where a fresh one never becomes ready, the changed one says the same and serves."""
    if found.get(_GENERATIONS) != "current":
        return ["the status is behind the spec"]
    differences = [one for one in state.differences(found, want, stage.mask) if not _aside(stage, one.path)]
    if want.get(f"{_READY}.status") != "True":
        first = stage.first[name]
        differences = [
            one
            for one in differences
            if _JUDGEMENT.search(one.path)
            or (not _OPINION.search(one.path) and first.get(one.path, "nothing") != one.found)
        ]
    return oracles.told(differences)


_BERT: Final = f"{names.KIND}/<bert>"
_READY: Final = f"{_BERT}.status.conditions[Ready]"
_GENERATIONS: Final = f"{_BERT}.generations"
_JUDGEMENT: Final = re.compile(
    rf"^{names.KIND}/<bert>\.status\.conditions\[(Accepted|SourceResolved|Built|Ready)\]\.(status|reason|message)$"
)
"""What the operator says of a spec, whatever is still served."""
_OPINION: Final = re.compile(rf"^{names.KIND}/<bert>\.status\.")


async def _states(place: Place, wanted: Iterable[str], *, jobs: bool = False) -> dict[str, state.State]:
    """What belongs to each of some resources, in words that are the same for all.

    Args:
        place: where they are.
        wanted: their names.
        jobs: whether all Jobs that the operator ever made belong to it, as they were made; else those that are left.
    """
    objects = await place.objects()
    if jobs:
        objects = [one for one in objects if one["kind"] != "Job"] + place.proxy.jobs
    return {name: own(objects, name, place.namespace) for name in wanted}


def own(objects: Sequence[Mapping[str, Any]], name: str, namespace: str) -> state.State:
    """What belongs to one BertDeployment, with its own names replaced. What only the past needs is left out.

    Args:
        objects: of the whole namespace.
        name: the BertDeployment's; found in no other text.
        namespace: of all.
    """
    mine = [one for one in objects if _belongs(one, name)]
    bert = next(one for one in mine if one["kind"] == names.KIND)
    text = json.dumps(_present(mine, bert, objects))
    for token, word in _tokens(mine, name).items():
        text = text.replace(token, word)
    found = state.canonical(json.loads(text), namespace)
    return found | {_GENERATIONS: "current" if _judged(bert) else "behind"}


def _belongs(obj: Mapping[str, Any], name: str) -> bool:
    metadata = obj["metadata"]
    if obj["kind"] == names.KIND:
        return bool(metadata["name"] == name)
    return (metadata.get("labels") or {}).get(names.INSTANCE_LABEL) == name


def _present(
    mine: Sequence[Mapping[str, Any]], bert: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Without ReplicaSets and ConfigMaps of earlier revisions; with the artifacts that are served."""
    deployments = json.dumps([one for one in mine if one["kind"] == "Deployment"])
    newest = max((_revision(one) for one in mine if one["kind"] == "ReplicaSet"), default=0)
    found = [
        one
        for one in mine
        if not (one["kind"] == "ReplicaSet" and _revision(one) != newest)
        and not (one["kind"] == "ConfigMap" and one["metadata"]["name"] not in deployments)
    ]
    status = json.dumps(bert.get("status") or {})
    records = [one for one in objects if one["kind"] == names.ARTIFACT_KIND and one["metadata"]["name"] in status]
    return [*found, *records]


def _revision(obj: Mapping[str, Any]) -> int:
    return int((obj["metadata"].get("annotations") or {}).get("deployment.kubernetes.io/revision", 0))


def _tokens(mine: Iterable[Mapping[str, Any]], name: str) -> dict[str, str]:
    """What is one BertDeployment's own -> what it is called here."""
    found = {name: "<bert>", claim_label(f"{name}-store"): "<store-label>"}
    for obj in mine:
        labels = obj["metadata"].get("labels") or {}
        if obj["kind"] == "PersistentVolumeClaim":
            found[artifact_name("", "", obj["metadata"]["uid"])[2:]] = "<store>"
        if content := labels.get(names.CONFIG_LABEL):
            found[content] = "<config>"
    return found


def _ready(bert: Mapping[str, Any]) -> bool:
    return condition(bert, "Ready").get("status") == "True"


def _said(found: state.State) -> str:
    return f"{found.get(f'{_READY}.reason')}: {found.get(f'{_READY}.message')}"


def _told(one: Operation) -> str:
    return f"{one.node.label}, {one.kind}"


def _short(value: object) -> str:
    text = "" if value is GONE else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
