"""Step `stage`, the first of a compile Job: takes the ONNX artifact from the store and decides all about the engine.

The script that runs on the GPU gets a graph, requests and decisions, nothing else; neither the store nor a credential
reaches it. The graph is proved on this CPU before any GPU time is spent: in few bits it must still answer like its
source.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bert_build import (
    arrangements,
    engine_plan,
    formats,
    golden_answers,
    onnx_session,
    progress,
    recorded,
    rungs,
)
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.recorded import Recorded, Recording
from bert_build.samples import Arrays, Sample
from bert_build.state import State
from bert_build.store import Store, read_only_store
from bert_operator.api import names, steps
from bert_operator.api.report import ExitCode, Manifest, OnnxArtifact
from bert_operator.api.spec import Build

SCRIPT: Final = Path(__file__).parent / "handlers" / "tensorrt" / names.COMPILE_SCRIPT
_CACHE_BYTES: Final = 64 << 20
"""Larger timing caches are left out."""


def run(job: Job, state: State) -> State:
    """Stage the graph, the requests and the decisions."""
    asked, build = job.request.onnx, job.request.build
    if asked is None:
        raise BuildError("InternalError", "The request names no ONNX artifact.", _REPORT_IT, ExitCode.INTERNAL)
    toolchain = formats.toolchain(formats.recipe(build))
    published = _published(job.store)
    if job.request.store_read_only and not _fitting(published, asked, build, toolchain):
        # Before a GPU is waited for: its engine could be kept nowhere.
        raise read_only_store()
    manifest = _proved(Store(job.store), asked)
    folder = Store(job.store).path("onnx", asked.artifact_key)
    every = golden_answers.read(folder / names.GOLDEN_FILE)
    golden = _keep_golden(job.work, build, every)
    recording = _recording(folder, build, every)
    recorded.save(job.work / recorded.FILE, recording.texts, recording.pad, recording.calibration)
    rung, refused = rungs.stage(job, folder, recording, steps.ladder(build))
    tensors = {tensor.name: tensor.dtype for tensor in (*manifest.report.inputs, *manifest.report.outputs)}
    wish = engine_plan.wish(build, asked, tensors, toolchain) | engine_plan.attempt(build, rung)
    wish |= {"published": sorted(published), "requests": _requests(job.work, build, wish["inputs"], recording, golden)}
    (job.work / engine_plan.WISH_FILE).write_text(json.dumps(wish, indent=1), encoding="utf-8")
    shutil.rmtree(job.artifact, ignore_errors=True)
    job.artifact.mkdir()
    shutil.copyfile(SCRIPT, job.work / names.COMPILE_SCRIPT)
    _bring_timing_caches(job)
    progress.say("stage", f"{rung}, profiles {_told(wish['profiles'])}")
    return _state(state, manifest, asked, toolchain).model_copy(update={"refused": refused})


_REPORT_IT: Final = "This is a defect of bert-operator: please report it with the pod's log."


def _proved(shelf: Store, asked: OnnxArtifact) -> Manifest:
    """The ONNX artifact's manifest, once every file was found to be the published one."""
    name = f"onnx-{asked.artifact_key}"
    manifest = shelf.found("onnx", asked.artifact_key)
    if manifest is None or shelf.manifest_sha256("onnx", asked.artifact_key) != asked.manifest_sha256:
        found = "isn't there or isn't whole" if manifest is None else "isn't the one that was recorded"
        raise BuildError(
            "ArtifactCorrupt",
            f"The engine is compiled from artifact {name}, and what the store holds under that name {found}.",
            f"Build it again: set a new value for the annotation {names.REFRESH_ANNOTATION}.",
        )
    progress.say("stage", f"{name} is intact, {progress.size(manifest.report.size_bytes)}")
    return manifest


def _keep_golden(work: Path, build: Build, every: Sequence[golden_answers.Request]) -> list[golden_answers.Request]:
    """The golden requests that the engine takes as they are, padding included: it is published with them alone.

    Pods send all that an artifact holds, and the ONNX model may take longer ones.
    """
    taken = [one for one in every if one.inputs[golden_answers.MASK].shape[1] <= build.max_sequence_length]
    arrays: Arrays = {}
    for number, one in enumerate(taken):
        arrays |= recorded.entry(number, Recorded(Sample("golden", dict(one.inputs)), dict(one.outputs)))
    np.savez(work / names.GOLDEN_FILE, allow_pickle=False, **arrays)
    return taken


def _recording(folder: Path, build: Build, golden: Sequence[golden_answers.Request]) -> Recording:
    """Texts and what is expected: the golden ones with the source model's answers, and others.

    For the others, those that judged the ONNX artifact and the longest of each profile, the FP32 graph answers, which
    was proved to answer like its source when it was published.
    """
    texts = [
        recorded.unpadded(f"golden request {number}", one)
        for number, one in enumerate(golden)
        if one.inputs[golden_answers.MASK].sum() <= build.max_sequence_length
    ]
    own, calibration, pad = _ids(folder, golden)
    others = [one for one in own if one.real.size <= build.max_sequence_length]
    lengths = {one.real.size for one in others}
    others += [
        Sample(f"length {profile.max[1]}", _long_request(texts[-1].sample, profile.max[1]))
        for profile in engine_plan.profiles(build)
        if profile.max[1] not in lengths
    ]
    session = onnx_session.open_session(folder)
    texts += [Recorded(sample, session.answer(sample.inputs)) for sample in others]
    return Recording(texts, pad, calibration)


def _ids(folder: Path, golden: Sequence[golden_answers.Request]) -> tuple[list[Sample], list[Sample], int]:
    """Texts of the ONNX artifact, those to calibrate with, and the id that fills unused positions."""
    try:
        return recorded.load_ids(folder / names.TEXTS_FILE)
    except FileNotFoundError:
        # Of an earlier release.
        return [], [], _pad(golden)


def _pad(golden: Sequence[golden_answers.Request]) -> int:
    """The id that fills unused positions, as far as a golden request shows one."""
    for one in golden:
        unused = one.inputs["input_ids"][one.inputs[golden_answers.MASK] == 0]
        if unused.size:
            return int(unused[0])
    return 0


def _long_request(pattern: Sample, length: int) -> Arrays:
    """A text of this length from the tokens of a shorter one, [1, length]."""
    return {name: np.resize(values[0], length)[None] for name, values in pattern.inputs.items()}


def _requests(
    work: Path, build: Build, inputs: list[str], recording: Recording, golden: Sequence[golden_answers.Request]
) -> list[dict[str, Any]]:
    """The requests of the comparison, in its order, as plain bytes: the image that reads them may have no numpy."""
    folder = work / "requests"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shapes = engine_plan.profiles(build)
    listed = []
    arranged = arrangements.arrange([one.sample for one in recording.texts], build, recording.pad)
    asked = [*(one.sample.inputs for one in arranged), *(one.inputs for one in golden)]
    for number, request in enumerate(asked):
        batch, length = request[golden_answers.MASK].shape
        tensors = {}
        for name in inputs:
            values = np.ascontiguousarray(request[name])
            file = f"requests/{number}-{name}.bin"
            (work / file).write_bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())
            tensors[name] = {"file": file, "shape": list(values.shape)}
        listed.append({"profile": engine_plan.profile_for(shapes, batch, length), "inputs": tensors})
    return listed


def _published(mount: Path) -> dict[str, Manifest]:
    """The engines in the store by key: which of them is wanted is known once the GPU is."""
    shelf = Store(mount)
    keys = [path.name.removeprefix("tensorrt-") for path in shelf.folder.glob("tensorrt-*")]
    return {key: manifest for key in keys if (manifest := shelf.sound("tensorrt", key))}


def _fitting(published: dict[str, Manifest], asked: OnnxArtifact, build: Build, toolchain: dict[str, str]) -> list[str]:
    """Keys of the engines that are what is asked for, on the GPUs and for the TensorRT that they were compiled for."""
    material = engine_plan.key_material(build, asked.artifact_key, toolchain)
    return [
        key
        for key, manifest in published.items()
        if asked.compute_capability in ("", manifest.report.compute_capability)
        and asked.tensorrt_version in ("", manifest.report.tensorrt_version)
        and key
        == engine_plan.artifact_key(material, manifest.report.compute_capability, manifest.report.tensorrt_version)
    ]


def _bring_timing_caches(job: Job) -> None:
    target = job.work / engine_plan.CACHES_FOLDER
    target.mkdir(exist_ok=True)
    for path in (job.store / engine_plan.CACHES_FOLDER).glob("*.cache"):
        if path.stat().st_size <= _CACHE_BYTES:
            shutil.copyfile(path, target / path.name)


def _told(profiles: list[dict[str, list[int]]]) -> str:
    return ", ".join("{}x{}…{}x{}".format(*profile["min"], *profile["max"]) for profile in profiles)


def _state(state: State, manifest: Manifest, asked: OnnxArtifact, toolchain: dict[str, str]) -> State:
    report = manifest.report
    return state.model_copy(
        update={
            "revision": asked.revision,
            "weights_digest": report.weights_digest,
            "architecture": report.architecture,
            "parameters": report.parameters,
            "toolchain": {**toolchain, "onnx-artifact": asked.artifact_key},
            "warnings": manifest.warnings,
        }
    )
