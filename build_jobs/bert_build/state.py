"""What one step leaves for the next: `state.json` in the folder the containers share. Read and written by job.py."""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from bert_build import files
from bert_operator.api.base import Model
from bert_operator.api.report import EngineProfile, FidelityFigures, Lowering, TensorSpec

STATE_FILE: Final = "state.json"

Kind = Literal["config", "weights", "tokenizer", "pooling", "other"]


class SourceFile(Model):
    """One file of the source model."""

    kind: Kind
    size: int
    sha256: str = ""
    """Empty as long as nobody has read or published it."""
    outside: str = ""
    """Where the bytes lie if they were not copied: a large file of a PVC source."""
    stamp: str = ""
    """What changes with each write to such a file; empty if it was too young to tell."""


class State(Model):
    """Everything known so far about one build."""

    request_key: str
    revision: str = ""
    files: dict[str, SourceFile] = Field(default_factory=dict)
    weights_digest: str = ""
    artifact_key: str = ""
    toolchain: dict[str, str] = Field(default_factory=dict)
    texts: dict[str, str] = Field(default_factory=dict)
    """Digests of the user's files of texts, by what they are for."""
    refused: list[str] = Field(default_factory=list)
    """Precisions of an engine that weren't close enough, each with why."""
    reused: bool = False
    architecture: str = ""
    parameters: int = 0
    inputs: list[TensorSpec] = Field(default_factory=list)
    outputs: list[TensorSpec] = Field(default_factory=list)
    fidelity: FidelityFigures | None = None
    lowering: Lowering | None = None
    compute_capability: str = ""
    tensorrt_version: str = ""
    profiles: list[EngineProfile] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    durations: dict[str, float] = Field(default_factory=dict)
    peak_memory_bytes: int = 0

    def save(self, work: Path) -> None:
        """Replace the state of the build."""
        files.write(work / STATE_FILE, self.model_dump_json(by_alias=True, indent=1))


def load(work: Path) -> State:
    """The state that the step before left.

    Raises:
        OSError: there is none.
        pydantic.ValidationError: it is not ours.
    """
    return State.model_validate_json((work / STATE_FILE).read_text(encoding="utf-8"))
