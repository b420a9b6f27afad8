"""Builds every cell of a format, and spoils it. Runs inside the images: `python -m matrix.cells FORMAT [FOLDER]`.

Writes a tar archive to standard output: what was found, and what another image goes on with. A SavedModel's source is
made and asked where PyTorch is, then converted and judged where TensorFlow is, given the folder of the first.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np

from bert_build import config_checks, fidelity, formats, job, recorded, state
from bert_build.failures import BuildError
from bert_build.families import FAMILIES
from bert_build.judge import TooFarError
from bert_operator.api.spec import Format, Framework, Task
from matrix.table import FAILS, REFUSED, WORKS, Cell, parsed
from support.build_bench import Bench

RESULTS: Final = "cells.json"
_SOURCE_STEPS: Final = ("fetch", "inspect", "answer")
_ARTIFACT_STEPS: Final = ("convert", "compare")


class Spoilt:
    """An artifact that gets other tensors than were sent."""

    def __init__(self, session: fidelity.Session, tensor: str, value: int) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self._session, self._tensor, self._value = session, tensor, value

    def answer(self, request: dict[str, Any], /) -> dict[str, Any]:
        """Answer with one tensor replaced."""
        return self._session.answer({**request, self._tensor: np.full_like(request[self._tensor], self._value)})


def main(folder: Path, kind: Format) -> None:
    """Build all cells of a format as far as this image can; earlier steps of theirs may lie in the folder."""
    found: list[Cell] = []
    before = parsed((folder / RESULTS).read_text()) if (folder / RESULTS).is_file() else []
    failed = {(cell.family, cell.task): (cell.status, cell.message) for cell in before if cell.status == FAILS}
    for family in FAMILIES:
        for task in Task:
            # What failed where its source was asked has failed.
            status, message = failed.get((family, task.value)) or _cell(
                folder / f"{kind}-{family}-{task}", family, task, kind
            )
            sys.stderr.write(f"{kind} {family} {task}: {status} {message}\n")
            found.append(Cell(family, task.value, kind.value, status, message))
    (folder / RESULTS).write_text(json.dumps([cell._asdict() for cell in found]))


def _cell(root: Path, family: str, task: Task, kind: Format) -> tuple[str, str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            missed = list(_built(root, family, task, kind))
    except TooFarError as error:
        return FAILS, error.message
    except BuildError as error:
        return (REFUSED if error.reason in ("UnsupportedModel", "Unsupported") else FAILS), error.message
    except Exception as error:  # noqa: BLE001 - a cell that falls over is a cell of the table
        return FAILS, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
    if missed:
        return FAILS, f"the comparison doesn't notice: {', '.join(missed)}"
    return WORKS, ""


def _built(root: Path, family: str, task: Task, kind: Format) -> Iterator[str]:
    """Run the steps; what the comparison doesn't notice."""
    wish = {"task": task.value, "format": kind.value}
    bench = Bench(root) if not root.exists() else _again(root)
    known = state.State(request_key="k1")
    if importlib.util.find_spec("torch"):
        from support import tiny_models  # noqa: PLC0415 - needs PyTorch

        tiny_models.save(bench.source, family, task)
        if task is Task.FEATURE_EXTRACTION:
            tiny_models.pooled(bench.source)
        known = _steps(bench.job(**wish), known, _SOURCE_STEPS)
        known.save(bench.root / "work")
        yield from _swapped(bench.job(**wish))
    else:
        # Without PyTorch only what came this far goes on; the rest was refused, and says so again.
        config_checks.read(bench.source, bench.job(**wish).request.build)
        known = state.load(bench.root / "work")
        here = {name: file.model_copy(update={"outside": ""}) for name, file in known.files.items()}
        known = known.model_copy(update={"files": here})
    if importlib.util.find_spec(_NEEDS[kind]) is None:
        return
    _steps(bench.job(**wish), known, _ARTIFACT_STEPS)
    yield from _unnoticed(bench.job(**wish))
    shutil.rmtree(root)


_NEEDS: Final = {
    Format.ONNX: "torch",
    Format.TORCHSCRIPT: "torch",
    Format.MAR: "torch",
    Format.SAVEDMODEL: "tensorflow",
}


def _again(root: Path) -> Bench:
    bench = object.__new__(Bench)
    bench.root = root
    return bench


def _steps(told: job.Job, known: state.State, steps: tuple[str, ...]) -> state.State:
    for step in steps:
        # The packages of the artifact's toolchain aren't here where only its source is asked.
        with mock.patch.object(formats, "toolchain", return_value={"exporter": "matrix"}):
            known = importlib.import_module(job.MODULES[step]).run(told, known)
    return known


def _unnoticed(told: job.Job) -> Iterator[str]:
    """Spoil what the artifact is given, in the ways in which conversions go wrong."""
    recipe = formats.recipe(told.request.build)
    session: fidelity.Session = importlib.import_module(recipe.session or recipe.module).open_session(told.artifact)
    config = config_checks.read(told.model, told.request.build)
    spoilt = {"a mask of ones": Spoilt(session, "attention_mask", 1)}
    if "token_type_ids" in config.inputs:
        spoilt["no token types"] = Spoilt(session, "token_type_ids", 0)
    for name, candidate in spoilt.items():
        if _passes(told, candidate):
            yield name


def _swapped(told: job.Job) -> Iterator[str]:
    """The source model itself with two layers in each other's place; there are no two where all layers are one."""
    build = told.request.build
    if json.loads((told.model / "config.json").read_bytes()).get("num_hidden_groups") == 1:
        return
    model = importlib.import_module(formats.SOURCES[Framework.PYTORCH]).load(told.model, build.task)
    _swap_layers(model)
    if _passes(told, model):
        yield "two swapped layers"


def _swap_layers(model: Any) -> None:
    """Exchange the weights of the last two of the encoder's layers.

    Raises:
        LookupError: there are no such two.
    """
    import torch  # noqa: PLC0415 - only here

    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) > 1:
            one, other = ({key: value.clone() for key, value in layer.state_dict().items()} for layer in module[-2:])
            if one and one.keys() == other.keys():
                module[-2].load_state_dict(other)
                module[-1].load_state_dict(one)
                return
    raise LookupError("there are no two layers to swap")


def _passes(told: job.Job, candidate: Any) -> bool:
    try:
        fidelity.compare(told.request.build, recorded.load(told.work / recorded.FILE), candidate)
    except TooFarError:
        return False
    return True


def _to_standard_output(kind: Format, before: str | None) -> None:
    # Libraries that print don't get into the archive.
    with os.fdopen(os.dup(1), "wb") as output, tempfile.TemporaryDirectory() as scratch:
        os.dup2(2, 1)
        folder = Path(scratch)
        if before:
            shutil.copytree(before, folder, dirs_exist_ok=True)
        main(folder, kind)
        with tarfile.open(fileobj=output, mode="w|", dereference=True) as archive:
            archive.add(folder, arcname=".", filter=_readable)


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Another image's user reads it."""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


if __name__ == "__main__":
    _to_standard_output(Format(sys.argv[1]), next(iter(sys.argv[2:]), None))
