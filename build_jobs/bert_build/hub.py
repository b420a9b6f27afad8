"""A repository of the Hugging Face Hub, or of a mirror that speaks its API. Called by fetch.

Small files come first: with the weights' digests that the hub publishes they tell whether the artifact exists already,
and whether the model is one that can be built, before anything large is downloaded.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from bert_build import config_checks, failures, files, progress, selection
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.state import Kind, SourceFile
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
from huggingface_hub import errors  # noqa: E402

PUBLIC_HUB: Final = "https://huggingface.co"
_TIMEOUT: Final = 30.0
_TRIES: Final = 4
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_PASSING: Final = frozenset({408, 409, 425, 429})
_SERVER_ERRORS: Final = 500

T = TypeVar("T")


class HubModel:
    """The repository and revision that the request names."""

    def __init__(self, job: Job) -> None:
        if job.request.hugging_face is None:
            raise TypeError("the request has no huggingFace source")
        self._repo = job.request.hugging_face.repo
        self._wish = job.request.hugging_face.revision
        self._has_token_reference = job.request.hugging_face.token_secret_ref is not None
        self._build = job.request.build
        self._target = job.model
        self._store = job.store
        self._endpoint = (os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")
        self._token: str | bool = os.environ.get("HF_TOKEN", "").strip() or False
        self._commit = ""

    def collect(self) -> tuple[str, dict[str, SourceFile]]:
        """Resolve the revision to a commit and get the small files; weights carry the digest the hub publishes."""
        progress.say("fetch", f"asking {self._endpoint} for {self._repo} at {self._wish}")
        api = huggingface_hub.HfApi(endpoint=self._endpoint, token=self._token)
        info = self._tried(
            lambda: api.model_info(self._repo, revision=self._wish, files_metadata=True, timeout=_TIMEOUT)
        )
        if not info.sha:
            raise self._broken("its answer names no commit")
        self._commit = info.sha
        present = {sibling.rfilename: _described(sibling) for sibling in info.siblings or []}
        if selection.CONFIG not in present:
            raise BuildError(
                "SourceNotFound",
                f"{self._title} holds no {selection.CONFIG}: it is no transformers model.",
                "Set source.huggingFace.repo to the repository of a BERT model.",
            )
        small = {
            name: self._downloaded(name, present[name], kind) for name, kind in selection.small_files(present).items()
        }
        # Before the weights: refusing a model that can't be built must not cost gigabytes.
        config_checks.check((self._target / selection.CONFIG).read_bytes(), self._build)
        return self._commit, small | self._weights_of(present)

    def weights(self, found: dict[str, SourceFile]) -> dict[str, SourceFile]:
        """Download the weights and prove them by the digests that the hub publishes."""
        missing = {
            name: file for name, file in found.items() if file.kind == "weights" and not (self._target / name).exists()
        }
        total = sum(file.size for file in missing.values())
        # The ONNX file is about as large as the weights; it grows in the scratch space and is copied to the store.
        files.require_space(self._target, 2 * total, f"Downloading and converting {self._title}", store=False)
        files.require_space(self._store, total, f"The artifact of {self._title}", store=True)
        counter = progress.Bytes("fetch", total)
        fetched = {name: self._downloaded(name, file, "weights", counter) for name, file in missing.items()}
        return found | fetched

    @property
    def _title(self) -> str:
        at = f" at {self._wish}" if self._wish != self._commit else ""
        return f"Repository {self._repo}{at}{f' (commit {self._commit[:12]})' if self._commit else ''}"

    def _weights_of(self, present: dict[str, SourceFile]) -> dict[str, SourceFile]:
        entry = selection.weights_entry(present, self._title, self._build)
        if not entry.endswith(selection.INDEX):
            return {entry: present[entry]}
        index = self._downloaded(entry, present[entry], "weights")
        wanted = selection.shards((self._target / entry).read_bytes(), entry)
        absent = [name for name in wanted if name not in present]
        if absent:
            raise BuildError(
                "WeightsMissing", f"{self._title}: {entry} names {absent[0]}, which isn't there.", "Upload it."
            )
        return {entry: index} | {name: present[name] for name in wanted}

    def _downloaded(self, name: str, file: SourceFile, kind: Kind, counter: progress.Bytes | None = None) -> SourceFile:
        if kind != "weights" and file.size > selection.SMALL:
            raise BuildError(
                "SourceCorrupt", f"{self._title}: {name} has {progress.size(file.size)}.", "Check the file."
            )
        self._target.mkdir(parents=True, exist_ok=True)
        got = Path(
            self._tried(
                lambda: huggingface_hub.hf_hub_download(
                    self._repo,
                    name,
                    revision=self._commit,
                    local_dir=self._target,
                    endpoint=self._endpoint,
                    token=self._token,
                    etag_timeout=_TIMEOUT,
                    tqdm_class=_bar(counter),
                )
            )
        )
        digest = files.sha256_of(got)
        if file.sha256 not in ("", digest):
            got.unlink()
            raise BuildError(
                "DownloadCorrupt",
                f"{self._title}: {name} arrived with sha256 {digest[:12]}…, the hub publishes {file.sha256[:12]}….",
                "It is tried again; if it persists, check the mirror named by HF_ENDPOINT.",
                ExitCode.PASSING,
            )
        return SourceFile(kind=kind, size=got.stat().st_size, sha256=digest)

    def _tried(self, call: Callable[[], T]) -> T:
        """Try again on a bad network; a download goes on where it broke off."""
        for attempt in range(_TRIES):
            try:
                return call()
            except (OSError, ValueError, errors.HTTPError) as error:
                named = self._named(_cause(error))
                if named.code is not ExitCode.PASSING or attempt == _TRIES - 1:
                    raise named from error
                progress.say("fetch", f"{named.message} Trying again.")
                time.sleep(2**attempt)
        raise AssertionError("unreachable")

    def _named(self, error: Exception) -> BuildError:
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
        if isinstance(error, OSError) and error.errno in failures.FULL:
            return self._disk(error)
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            return self._broken(f"its answer can't be read ({_line(error)})")
        if status is not None and status < _SERVER_ERRORS and status not in _PASSING:
            return BuildError(
                "SourceRefused", f"{self._endpoint} answered {status} for {self._repo}: {_line(error)}", _CHECK
            )
        found = f"answered {status}" if status else f"can't be reached ({_line(error)})"
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

    def _disk(self, error: OSError) -> BuildError:
        free = progress.size(files.free(self._target))
        return files.no_space(f"{error.strerror} while downloading {self._repo}, {free} are free", store=False)

    def _broken(self, found: str) -> BuildError:
        return BuildError(
            "SourceUnreachable", f"{self._endpoint} is no Hugging Face Hub: {found}.", _CHECK, ExitCode.PASSING
        )


_CHECK: Final = "Check that the cluster may reach it; set build.hubEndpoint in the operator's settings to use a mirror."


def _described(sibling: Any) -> SourceFile:  # noqa: ANN401 - a class of huggingface_hub, which has no stubs
    published = sibling.lfs.sha256 if sibling.lfs is not None else ""
    return SourceFile(kind="weights", size=sibling.size or 0, sha256=published)


def _cause(error: Exception) -> Exception:
    """huggingface_hub says "not in the cache" where the real cause is the network."""
    while isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]


def _bar(counter: progress.Bytes | None) -> "type[Any] | None":
    """huggingface_hub reports to a tqdm class; this one feeds our own lines."""
    if counter is None:
        return None
    add = counter.add

    class Bar(huggingface_hub.utils.tqdm):  # type: ignore[misc]  # huggingface_hub has no stubs
        """Counts, draws nothing."""

        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})
            add(int(options.get("initial") or 0))

        def update(self, n: float | None = 1) -> None:
            """Count the bytes of one block."""
            add(int(n or 0))

    return Bar
