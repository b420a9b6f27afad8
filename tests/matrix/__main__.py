"""`make support-matrix`: builds every cell inside the build images and writes docs/support-matrix.*."""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from bert_operator.api.spec import Format
from matrix import table

_PLACE: Final = "/matrix"
_RUNS: Final = (
    ("pytorch", Format.ONNX),
    ("pytorch", Format.TORCHSCRIPT),
    ("pytorch", Format.MAR),
    # Its source is asked first, in PyTorch.
    ("pytorch", Format.SAVEDMODEL),
    ("tensorflow", Format.SAVEDMODEL),
)


def main() -> int:
    """Exit status."""
    with tempfile.TemporaryDirectory(prefix="support-matrix-") as scratch:
        for image, kind in _RUNS:
            _run(image, kind, Path(scratch, kind))
        files = [Path(scratch, kind, "cells.json") for kind in table.FORMATS]
        found = [cell for file in files for cell in table.parsed(file.read_text(encoding="utf-8"))]
    table.JSON_FILE.write_text(table.as_json(found), encoding="utf-8")
    table.MARKDOWN_FILE.write_text(table.as_markdown(found), encoding="utf-8")
    failed = [cell for cell in found if cell.status == table.FAILS]
    for cell in failed:
        sys.stderr.write(f"{cell.format} {cell.family} {cell.task}: {cell.message}\n")
    return 1 if failed else 0


def _run(image: str, kind: Format, folder: Path) -> None:
    """Let an image do its part of a format; `folder` holds what another one left, and then what this one leaves."""
    mounts, given = (["--mount", f"{folder}:{_PLACE}"], [_PLACE]) if folder.exists() else ([], [])
    inside = ["python", "-m", "matrix.cells", kind.value, *given]
    command = [sys.executable, "-m", "images", "run", *mounts, image, "--", *inside]
    written = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(written)) as archive:
        archive.extractall(folder, filter="data")


if __name__ == "__main__":
    sys.exit(main())
