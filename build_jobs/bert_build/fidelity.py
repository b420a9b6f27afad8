"""Step `compare`: proves that the artifact answers like its source model did, in the runtime that it was made for.

The reference is the source model in FP32, asked each text alone. The artifact is asked the same texts alone, padded and
in mixed batches; only real tokens count, and of each text the worst answer.
"""

import dataclasses
import importlib
import shutil
from pathlib import Path
from typing import Protocol

from bert_build import arrangements, figures, formats, lowered, progress, recorded
from bert_build.arrangements import Kind
from bert_build.job import Job
from bert_build.judge import Judge
from bert_build.recorded import Recording
from bert_build.samples import Arrays
from bert_build.state import State
from bert_operator.api import names
from bert_operator.api.report import FidelityFigures, TensorSpec
from bert_operator.api.spec import Build, Precision


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
    module = importlib.import_module(recipe.session or recipe.module)

    def judge_folder(folder: Path, precision: Precision) -> Judged:
        session: Session = module.open_session(folder)
        found = compare(build.model_copy(update={"precision": precision}), recording, session)
        return Judged(found, session.inputs, session.outputs)

    if build.precision is Precision.INT8:
        found, lowering = lowered.choose(job, recording, judge_folder)
        state = state.model_copy(update={"lowering": lowering})
    else:
        found = judge_folder(job.artifact, build.precision)
    shutil.copyfile(job.work / names.GOLDEN_FILE, job.artifact / names.GOLDEN_FILE)
    return state.model_copy(update={"fidelity": found.figures, "inputs": found.inputs, "outputs": found.outputs})


def compare(build: Build, recording: Recording, session: Session, step: str = "compare") -> FidelityFigures:
    """Ask an artifact what its source was asked.

    Raises:
        BuildError: an answer is too far from the recorded one.
    """
    judge = Judge(recording.texts, figures.limits(build.fidelity, build.precision))
    asked = list(arrangements.arrange([one.sample for one in recording.texts], build, recording.pad))
    for number, one in enumerate(asked, start=1):
        judge.hear(one, session.answer(one.sample.inputs))
        progress.say(
            step, f"{100 * number // len(asked)} % {one.kind}, {one.sample.name}: max |Δ| so far {judge.max_abs:.2e}"
        )
    found = judge.figures()
    told = ", ".join(f"{kind} {judge.cosines[kind]:.6f}" for kind in Kind)
    progress.say(step, f"{build.precision}: smallest cosine {told}; agreement {found.agreement}")
    return found
