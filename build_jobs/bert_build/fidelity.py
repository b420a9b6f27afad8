"""Step `compare`: proves that the artifact answers like its source model did, in the runtime that it was made for.

The reference is the source model in FP32, asked each text alone. The artifact is asked the same texts alone, padded and
in mixed batches; only real tokens count, and of each text the worst answer. Golden requests are asked as servers will
be asked: what passes here must pass there.
"""

import dataclasses
import importlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from bert_build import arrangements, figures, formats, golden_answers, lowered, progress, recorded
from bert_build.arrangements import Arrangement, Kind
from bert_build.job import Job
from bert_build.judge import Judge
from bert_build.recorded import Recorded, Recording
from bert_build.samples import Arrays, Sample
from bert_build.state import State
from bert_operator.api import names
from bert_operator.api.report import FidelityFigures, TensorSpec
from bert_operator.api.spec import Build, Format, Precision


class Session(Protocol):
    """An artifact that can be asked."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    def answer(self, request: Arrays, /) -> Arrays:
        """Answer one request."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """An artifact that answers like its source."""

    figures: FidelityFigures
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


def run(job: Job, state: State) -> State:
    """Compare, in INT8 after lowering the artifact, and put the golden requests beside it."""
    recording = recorded.load(job.work / recorded.FILE)
    build = job.request.build
    recipe = formats.recipe(build)
    golden = golden_answers.read(job.work / names.GOLDEN_FILE)
    module = importlib.import_module(recipe.session or recipe.module)

    def judge_folder(folder: Path, precision: Precision) -> Judged:
        session: Session = module.open_session(folder)
        found = compare(_wish(build, precision), recording, session, golden=golden)
        return Judged(found, session.inputs, session.outputs)

    if build.precision is Precision.INT8:
        found, lowering = lowered.choose(job, recording, judge_folder)
        state = state.model_copy(update={"lowering": lowering})
    else:
        found = judge_folder(job.artifact, build.precision)
    shutil.copyfile(job.work / names.GOLDEN_FILE, job.artifact / names.GOLDEN_FILE)
    if (build.format, build.precision) == (Format.ONNX, Precision.FP32):
        recorded.save_ids(job.artifact / names.TEXTS_FILE, recording)
    return state.model_copy(update={"fidelity": found.figures, "inputs": found.inputs, "outputs": found.outputs})


def _wish(build: Build, precision: Precision) -> Build:
    """What an artifact of this precision is judged by: before it is quantised, by FP32's own limits."""
    return figures.unquantised(build) if precision is Precision.FP32 else build


def compare(
    build: Build,
    recording: Recording,
    session: Session,
    step: str = "compare",
    golden: Sequence[golden_answers.Request] = (),
    limits: figures.Limits | None = None,
) -> FidelityFigures:
    """Ask an artifact what its source was asked.

    Args:
        build: says limits and buckets.
        recording: texts, which are asked in every company.
        session: the artifact.
        step: whose progress is told.
        golden: requests that are asked as they are, padding included.
        limits: others than those of the build.

    Raises:
        BuildError: an answer is too far from the recorded one.
    """
    asked = list(arrangements.arrange([one.sample for one in recording.texts], build, recording.pad))
    texts = list(recording.texts)
    for text, request in _golden(golden, len(texts)):
        texts.append(text)
        asked.append(request)
    judge = Judge(texts, limits or figures.limits(build.fidelity, build.precision))
    for number, one in enumerate(asked, start=1):
        judge.hear(one, session.answer(one.sample.inputs))
        progress.say(
            step, f"{100 * number // len(asked)} % {one.kind}, {one.sample.name}: max |Δ| so far {judge.max_abs:.2e}"
        )
    found = judge.figures()
    told = ", ".join(f"{kind} {judge.cosines[kind]:.6f}" for kind in Kind)
    progress.say(step, f"smallest cosine {told}; agreement {found.agreement}")
    return found


def _golden(golden: Sequence[golden_answers.Request], first: int) -> Iterator[tuple[Recorded, Arrangement]]:
    """Each golden request of tokens: what its real tokens must answer, and how it is asked.

    Those of words are the recording's own.
    """
    tokens = (request for request in golden if arrangements.of_tokens(request.inputs))
    for number, request in enumerate(tokens):
        text = recorded.unpadded(f"golden request {number}", request)
        sent = Sample(text.sample.name, dict(request.inputs))
        kind = Kind.ALONE if sent.real.all() else Kind.PADDED
        yield text, Arrangement(kind, sent, (first + number,))
