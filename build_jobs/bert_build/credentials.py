"""What a source's Secret holds, as the kubelet mounted it into the container of fetch. Never printed."""

from collections.abc import Sequence

from bert_build.failures import BuildError
from bert_build.job import Job
from bert_operator.api.report import ExitCode


def read(job: Job, key: str) -> str:
    """One key of the Secret, without the line end that editors add; empty if it isn't there."""
    try:
        return (job.credentials / key).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError as error:
        message = f"Key {key} of the source's Secret holds bytes that are no text."
        raise BuildError("SecretInvalid", message, "Put the plain text into the Secret.") from error


def missing(job: Job, field: str, secret: str, keys: Sequence[str]) -> BuildError:
    """The Secret, or a key of it, isn't there. Somebody may be about to create it, so it passes."""
    namespace = job.request.owner.partition("/")[0]
    literals = " ".join(f"--from-literal={key}=…" for key in keys)
    return BuildError(
        "SecretNotFound",
        f"Secret {secret!r} of {field} doesn't exist in namespace {namespace}, or doesn't hold {' and '.join(keys)}.",
        f"`kubectl create secret generic {secret} -n {namespace} {literals}`; to have it looked for at once, give the "
        "annotation bertops.dev/refresh a new value.",
        ExitCode.PASSING,
    )
