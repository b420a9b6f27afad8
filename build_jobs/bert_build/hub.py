"""A repository of the Hugging Face Hub, or of a mirror that speaks its API. Called by fetch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from bert_build import credentials, download, progress
from bert_build.failures import BuildError, line
from bert_build.job import Job
from bert_build.state import SourceFile
from bert_operator.api import names
from bert_operator.api.report import ExitCode

# Read by huggingface_hub when it is imported. Xet needs further hosts, which mirrors and firewalls don't offer.
for _name, _value in (
    ("HF_HUB_DISABLE_XET", "1"),
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
):
    os.environ.setdefault(_name, _value)

import huggingface_hub  # noqa: E402
from huggingface_hub import errors, utils  # noqa: E402

PUBLIC_HUB: Final = "https://huggingface.co"
_TIMEOUT: Final = 30.0
_BLOCK: Final = 1 << 20
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_PARTIAL: Final = 206


class HubShelf:
    """The repository and revision that the request names."""

    field = "source.huggingFace.repo"
    faults: tuple[type[Exception], ...] = (OSError, ValueError, errors.HTTPError)

    def __init__(self, job: Job) -> None:
        if job.request.hugging_face is None:
            raise TypeError("the request has no huggingFace source")
        self._repo = job.request.hugging_face.repo
        self._wish = job.request.hugging_face.revision
        self._endpoint = (os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")
        self._has_token_reference = job.request.hugging_face.token_secret_ref is not None
        self._token: str | bool = _token(job) or False
        self._commit = ""

    @property
    def title(self) -> str:
        """What messages call it."""
        at = f" at {self._wish}" if self._wish != self._commit else ""
        return f"Repository {self._repo}{at}{f' (commit {self._commit[:12]})' if self._commit else ''}"

    def listed(self) -> tuple[str, dict[str, SourceFile]]:
        """The commit that the revision is now, and its files with their sizes and the digests of the large ones."""
        progress.say("fetch", f"asking {self._endpoint} for {self._repo} at {self._wish}")
        api = huggingface_hub.HfApi(endpoint=self._endpoint, token=self._token)
        info = api.model_info(self._repo, revision=self._wish, files_metadata=True, timeout=_TIMEOUT)
        if not info.sha:
            raise self._broken("its answer names no commit")
        self._commit = info.sha
        return self._commit, {sibling.rfilename: _described(sibling) for sibling in info.siblings or []}

    def published(self, name: str, file: SourceFile) -> SourceFile:
        """The file as it is, unless a mirror's listing doesn't tell sizes."""
        if file.size:
            return file
        found = huggingface_hub.get_hf_file_metadata(
            self._url(name), token=self._token, timeout=_TIMEOUT, endpoint=self._endpoint
        )
        return file.model_copy(update={"size": found.size or 0})

    @contextmanager
    def open(self, name: str, start: int) -> Iterator[Iterator[bytes]]:
        """The bytes of a file of the resolved commit from `start` on."""
        # What is packed on the way can't be gone on with, and needn't be as long as it says.
        headers = utils.build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        session = huggingface_hub.get_session()
        with session.stream(
            "GET", self._url(name), headers=headers, follow_redirects=True, timeout=_TIMEOUT
        ) as response:
            utils.hf_raise_for_status(response)
            blocks = response.iter_bytes(_BLOCK)
            yield blocks if response.status_code == _PARTIAL or not start else download.skipped(blocks, start)

    def _url(self, name: str) -> str:
        return str(huggingface_hub.hf_hub_url(self._repo, name, revision=self._commit, endpoint=self._endpoint))

    def named(self, error: Exception) -> BuildError:
        """What a failure of huggingface_hub means for the user."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.GatedRepoError) or status == _FORBIDDEN:
            return self._forbidden(error)
        if isinstance(error, errors.RevisionNotFoundError):
            return BuildError(
                "RevisionNotFound",
                f"Repository {self._repo} on {self._endpoint} has no revision {self._wish!r}.",
                "Set source.huggingFace.revision to a commit, tag or branch of it, e.g. main.",
            )
        if isinstance(error, errors.RepositoryNotFoundError) or status in (_UNAUTHORIZED, _NOT_FOUND):
            return self._not_found(status)
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            return self._broken(f"its answer can't be read ({line(error)})")
        if status is not None and not download.passes(status):
            return BuildError(
                "SourceRefused", f"{self._endpoint} answered {status} for {self._repo}: {line(error)}", _CHECK
            )
        found = f"answered {status}" if status else f"can't be reached ({line(error)})"
        return BuildError("SourceUnreachable", f"{self._endpoint} {found}.", _CHECK, ExitCode.PASSING)

    def _forbidden(self, error: Exception) -> BuildError:
        if isinstance(error, errors.GatedRepoError):
            who = "the token's account" if self._token else "anybody without a token"
            message = f"Repository {self._repo} on {self._endpoint} is gated: {who} has no access."
            step = f"Accept its terms on {self._endpoint}/{self._repo}, then {self._token_step}"
        else:
            message = f"{self._endpoint} forbids access to {self._repo} (403)."
            step = self._token_step[0].upper() + self._token_step[1:]
        return BuildError("SourceForbidden", message, step)

    def _not_found(self, status: int | None) -> BuildError:
        if self._token:
            message = (
                f"Repository {self._repo} isn't on {self._endpoint}, or the token may not see it (answer {status})."
            )
            step = "Check source.huggingFace.repo and that the Secret's token is valid and may read the repository."
        else:
            message = f"Repository {self._repo} isn't on {self._endpoint}, or it is private (answer {status})."
            step = f"Check the spelling of source.huggingFace.repo; for a private repository {self._token_step}"
        return BuildError("SourceNotFound", message, step)

    @property
    def _token_step(self) -> str:
        if self._has_token_reference:
            return (
                "put a token that may read the repository into the Secret named by source.huggingFace.tokenSecretRef."
            )
        return (
            "make a token, `kubectl create secret generic hub --from-literal=token=hf_…`, "
            "and set source.huggingFace.tokenSecretRef: {name: hub}."
        )

    def _broken(self, found: str) -> BuildError:
        return BuildError(
            "SourceUnreachable", f"{self._endpoint} is no Hugging Face Hub: {found}.", _CHECK, ExitCode.PASSING
        )


_CHECK: Final = "Check that the cluster may reach it; set build.hubEndpoint in the operator's settings to use a mirror."


def _described(sibling: Any) -> SourceFile:  # noqa: ANN401 - a class of huggingface_hub, which has no stubs
    published = sibling.lfs.sha256 if sibling.lfs is not None else ""
    return SourceFile(kind="weights", size=sibling.size or 0, sha256=published)


def _token(job: Job) -> str:
    """The token of the Secret that the request names; empty if it names none."""
    source = job.request.hugging_face
    if source is None or source.token_secret_ref is None:
        return ""
    reference = source.token_secret_ref
    found = credentials.read(job, names.HUB_TOKEN_FILE)
    if not found:
        raise credentials.missing(job, "source.huggingFace.tokenSecretRef", reference.name, [reference.key])
    return found
