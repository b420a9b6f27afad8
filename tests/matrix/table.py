"""The matrix as files: JSON for programs, Markdown for people. Pure but for reading and writing them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bert_build.families import FAMILIES
from bert_operator.api.spec import Format, Task

DOCS: Final = Path(__file__).parents[2] / "docs"
JSON_FILE: Final = DOCS / "support-matrix.json"
MARKDOWN_FILE: Final = DOCS / "support-matrix.md"
FORMATS: Final = {
    Format.ONNX: "ONNX, for Triton",
    Format.TORCHSCRIPT: "TorchScript, for Triton",
    Format.SAVEDMODEL: "SavedModel, for TF Serving",
    Format.MAR: "Model archive, for TorchServe",
}
"""What is measured. TensorRT engines are compiled from the ONNX artifact, on a GPU."""
WORKS: Final = "works"
REFUSED: Final = "refused"
FAILS: Final = "fails"


class Cell(NamedTuple):
    """What became of one build."""

    family: str
    task: str
    format: str
    status: str
    message: str


def wanted() -> Iterator[tuple[str, Task, Format]]:
    """Every cell, in the order of the files."""
    for kind in FORMATS:
        for family in FAMILIES:
            for task in Task:
                yield family, task, kind


def as_json(cells: Sequence[Cell]) -> str:
    """One cell a line."""
    return "[\n" + ",\n".join(json.dumps(cell._asdict()) for cell in cells) + "\n]\n"


def parsed(text: str) -> list[Cell]:
    """The cells of such a file."""
    return [Cell(**entry) for entry in json.loads(text)]


def as_markdown(cells: Sequence[Cell]) -> str:
    """A table for each format, with the messages below."""
    return _HEAD + "\n".join(_section(kind, cells) for kind in FORMATS)


_HEAD: Final = """# What is built: families, tasks, formats
Written by `make support-matrix`; don't edit. The same for programs: [support-matrix.json](support-matrix.json).

Each cell was built and judged in the build images, from a tiny random checkpoint of that family (weights drawn wide, so
that faults show) with the steps of a build Job. It **works** if the artifact answered like its source model (alone,
padded and in mixed batches), and if the same comparison refused it each time it was spoilt on purpose: attending to its
padding, given no token types (where the family has them), and with the weights of two layers swapped (not ALBERT:
its layers are one). Real checkpoints are judged in the same way at each build. A refused build ends in its step
`inspect` with the message below its table.

TensorRT engines (`format: tensorrt`) are compiled on a GPU from the ONNX artifact and judged there; they are no part of
this table.

"""


def _section(kind: Format, cells: Sequence[Cell]) -> str:
    of_kind = {(cell.family, cell.task): cell for cell in cells if cell.format == kind}
    notes: list[str] = []
    lines = [f"## {FORMATS[kind]} (`{kind}`)", "", "| family |" + "".join(f" {task} |" for task in Task)]
    lines.append("|---|" + "---|" * len(Task))
    for family in FAMILIES:
        row = "".join(f" {_told(of_kind[family, task], notes)} |" for task in Task)
        lines.append(f"| {family} |{row}")
    said = [f"{number}. {note}" for number, note in enumerate(notes, start=1)]
    return "\n".join([*lines, "", *said, *([""] if said else [])])


def _told(cell: Cell, notes: list[str]) -> str:
    if not cell.message:
        return cell.status
    if cell.message not in notes:
        notes.append(cell.message)
    return f"{cell.status} ({notes.index(cell.message) + 1})"
