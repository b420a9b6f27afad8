"""What `bertctl artifacts` asks of a Job that looks after the store on one claim, as JSON in BERTOPS_STORE_TASK."""

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from bert_operator.api.base import Model

MAX_ARTIFACTS: Final = 200
"""Of one Job: its task is an environment variable, which the kernel bounds at 128 KiB."""


class StoredArtifact(Model):
    """One artifact as its BertArtifact records it."""

    folder: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,32}-[0-9a-f]{32}$")]
    """Below artifacts/ of the claim."""
    manifest_sha256: str


class StoreTask(Model):
    """Look at some artifacts, or remove them."""

    action: Literal["verify", "rm"]
    claim: str
    """Name of the claim, for messages."""
    artifacts: Annotated[list[StoredArtifact], Field(max_length=MAX_ARTIFACTS)]
    whole: bool = False
    """These are all that are recorded: name what else lies in the store."""
    listed_at: float = 0.0
    """When nothing was seen to use them, in seconds since 1970."""
