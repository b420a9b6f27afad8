"""What `bertctl artifacts` and the operator ask of a Job that looks after the store on one claim, and its answer.

The task is JSON in BERTOPS_STORE_TASK.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from bert_operator.api.base import Model

MAX_ARTIFACTS: Final = 200
"""Of one Job: its task is an environment variable, which the kernel bounds at 128 KiB."""
MAX_COLLECTED: Final = 40
"""Of one Job that the operator starts: it answers by termination message, at most 68 bytes for each."""
MAX_RECORDED: Final = 1000
"""How many artifacts a Job can be told to leave alone."""

Folder = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,32}-[0-9a-f]{32}$")]
"""Of an artifact, below artifacts/ of the claim."""


class StoredArtifact(Model):
    """One artifact as its BertArtifact records it."""

    folder: Folder
    manifest_sha256: str


class StoreTask(Model):
    """Look at some artifacts, or remove them: at once (`rm`), or after a grace in which a build gets them back."""

    action: Literal["verify", "rm", "collect"]
    claim: str
    """Name of the claim, for messages."""
    artifacts: Annotated[list[StoredArtifact], Field(max_length=MAX_ARTIFACTS)]
    whole: bool = False
    """These are all that are recorded: name what else lies in the store."""
    listed_at: float = 0.0
    """When nothing was seen to use them, in seconds since 1970."""
    grace_seconds: int = 0
    """`collect`: how long what was put aside waits before it is deleted."""
    recorded: Annotated[list[Folder], Field(max_length=MAX_RECORDED)] | None = None
    """`collect`: all that is live on the claim. What is in neither list and idle goes as well; None: nothing does."""
    idle_seconds: int = 0
    """How long ago a build must have published or found what no record names."""


class StoreReport(Model):
    """What a Job did that collected."""

    removed: int = 0
    kept: list[Folder] = Field(default_factory=list)
    """Of the task's artifacts, those that stay: a build wanted them meanwhile, or they can't be moved."""
    freed_bytes: int = 0
