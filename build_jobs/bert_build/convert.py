"""Step `convert`: writes the artifact in the asked format, by the module that `formats` names."""

import importlib
import shutil

from bert_build import formats, pvc
from bert_build.job import Job
from bert_build.state import State


def run(job: Job, state: State) -> State:
    """Convert the source model.

    Raises:
        BuildError: its weights are not those any more that were named and asked.
    """
    shutil.rmtree(job.artifact, ignore_errors=True)
    job.artifact.mkdir(parents=True)
    recipe = formats.recipe(job.request.build)
    with pvc.watched(state):
        importlib.import_module(recipe.module).convert(job)
    # It covers `answer` as well: what changed between the two is still changed.
    pvc.unchanged(state)
    return state
