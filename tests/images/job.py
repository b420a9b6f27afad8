"""A command to run inside an image; `run` makes it, the engines carry it out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A command with what it sees of this machine."""

    command: tuple[str, ...]
    mounts: Mapping[Path, str]
    """Folders of this machine, read-only, and where the command finds them."""
    kept: Mapping[Path, str]
    """The same, for folders that it may write to."""
    environment: Mapping[str, str]
    folder: str
    """Where it starts."""
