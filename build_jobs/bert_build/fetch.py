"""Step `fetch`: gets the source model and names it. From then on the artifact has a key, and may exist already."""

import shutil
from typing import Protocol

from bert_build import formats, keys, progress, pvc, remote, store, user_texts
from bert_build.job import Job
from bert_build.state import SourceFile, State


class Source(Protocol):
    """One kind of source."""

    def collect(self) -> tuple[str, dict[str, SourceFile]]:
        """Revision (empty if the source has none) and all files, the small ones already in the job's model folder."""

    def weights(self, found: dict[str, SourceFile], /) -> dict[str, SourceFile]:
        """Bring the weights into the job's model folder; returns all files, each with its digest."""


def run(job: Job, state: State) -> State:
    """Fetch what is needed and no more: nothing large if the artifact is published already.

    Raises:
        BuildError: the source can't be had, or its artifact isn't there and the store's claim can't be written.
    """
    shutil.rmtree(job.model, ignore_errors=True)
    job.model.mkdir(parents=True)
    state = state.model_copy(update={"texts": user_texts.bring(job)})
    source = _source(job)
    revision, found = source.collect()
    recipe = formats.recipe(job.request.build)
    toolchain = formats.toolchain(recipe)
    if job.request.trace_device is not None:
        # A trace remembers its device: one for CPUs is another artifact.
        toolchain |= {"device": job.request.trace_device}
    state = state.model_copy(update={"revision": revision, "files": found, "toolchain": toolchain})
    if all(file.sha256 for file in found.values()):
        state = _identified(job, state)
    if not state.reused:
        if state.artifact_key and job.request.store_read_only:
            # Before the weights: nothing could be made of them. Where they name the artifact, `inspect` refuses.
            raise store.read_only_store()
        state = _identified(job, state.model_copy(update={"files": source.weights(found)}))
    what = "is in the store already" if state.reused else "will be built"
    progress.say("fetch", f"revision {state.revision}: artifact {recipe.name}-{state.artifact_key} {what}")
    return state


def _source(job: Job) -> Source:
    """The reader of the source; the clients take half a second to import that other sources needn't pay."""
    if job.request.pvc is not None:
        return pvc.PvcModel(job)
    if job.request.s3 is not None:
        from bert_build import s3  # noqa: PLC0415 - see above

        return remote.RemoteModel(job, s3.S3Shelf(job))
    from bert_build import hub  # noqa: PLC0415 - see above

    return remote.RemoteModel(job, hub.HubShelf(job))


def _identified(job: Job, state: State) -> State:
    """The state with the digests of the source and the artifact, and whether that is published."""
    recipe = formats.recipe(job.request.build)
    digest = keys.weights_digest(state.files)
    key = keys.artifact_key(digest, job.request.build, recipe.name, state.toolchain, state.texts)
    return state.model_copy(
        update={
            "weights_digest": digest,
            "artifact_key": key,
            "revision": state.revision or f"sha256:{digest}",
            "reused": key != state.artifact_key and store.Store(job.store).found(recipe.name, key) is not None,
        }
    )
