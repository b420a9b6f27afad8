"""The format `mar`: PyTorch to a TorchServe model archive. Called by convert and fidelity through `formats`.

The archive holds the model as TorchScript, the tokenizer, the labels and our handler; torch-model-archiver packs it.
What is compared is what the archive holds: the session unpacks it and asks through the handler's own code.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
import yaml

from bert_build import config_checks, progress, samples, selection, source_model, tasks, texts, tracing
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.samples import Arrays
from bert_operator.api import names
from bert_operator.api.report import ExitCode, TensorSpec
from bert_operator.api.spec import Build

HANDLER: Final = Path(__file__).parent / "handlers" / "torchserve"
HANDLER_FILES: Final = ("bert_handler.py", "served_bert.py", "bert_answers.py")
_CONFIG: Final = "model-config.yaml"
_MODEL: Final = "model.pt"
_TOKENIZER: Final = "tokenizer.json"
_LABELS: Final = "index_to_name.json"
_WARM_LENGTHS: Final = 4
_BATCH: Final = 8
"""Rows that compare runs at once."""


def convert(job: Job) -> None:
    """Write model.mar into the job's artifact folder."""
    parts = job.work / "mar"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    model = source_model.load(job.model, job.request.build.task)
    progress.say("convert", "source model loaded; tracing")
    torch.jit.save(tracing.traced(model, model.inputs), str(parts / _MODEL))
    extra = [*(HANDLER / name for name in HANDLER_FILES[1:]), *_described(job, parts, model)]
    progress.say("convert", f"packing {', '.join(sorted([_MODEL, *(path.name for path in extra)]))}")
    _pack(parts, extra, job.artifact)
    shutil.rmtree(parts)


def _described(job: Job, parts: Path, model: source_model.SourceModel) -> list[Path]:
    """Write the files beside the model: its tokenizer, labels and facts; returns what the archiver calls extra."""
    text = (job.model / selection.CONFIG).read_bytes()
    config = config_checks.check(text, job.request.build)
    task = job.request.build.task
    raw: dict[str, Any] = json.loads(text)
    extra: list[Path] = []
    tokenizer = texts.tokenizer(job.model)
    if tokenizer is not None:
        extra.append(parts / _TOKENIZER)
        extra[-1].write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    if task in tasks.LABELLED:
        extra.append(parts / _LABELS)
        labels = config.id2label or {str(index): f"LABEL_{index}" for index in range(config.labels)}
        extra[-1].write_text(json.dumps(labels), encoding="utf-8")
    facts = {
        "task": task.value,
        "inputs": list(model.inputs),
        "outputs": {name: tasks.per_token(task, name) for name in model.outputs},
        "max_length": job.request.build.max_sequence_length,
        "vocabulary": config.vocab_size,
        "types": config.type_vocab_size,
        "mask": model.mask if isinstance(model, source_model.MaskFiller) else None,
        "pad": config.pad_token_id or 0,
        "activation": _activation(raw.get("problem_type"), config.labels),
        "lengths": _warm_lengths(job.request.build),
        # Of tokenizer_config.json; tokenizer.json alone doesn't say it.
        "truncation_side": getattr(tokenizer, "truncation_side", "right"),
    }
    # The order of outputs is the model's.
    (parts / _CONFIG).write_text(yaml.safe_dump({"handler": facts}, sort_keys=False), encoding="utf-8")
    return extra


def _activation(problem: object, labels: int) -> str:
    """As transformers' own text-classification pipeline chooses it."""
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == "multi_label_classification" or labels == 1 else "softmax"


def _warm_lengths(build: Build) -> list[int]:
    """The spec's buckets, else a few of those that are compared; always the longest."""
    lengths = samples.buckets(build)
    return lengths if build.sequence_buckets else lengths[-_WARM_LENGTHS:]


def _pack(parts: Path, extra: list[Path], target: Path) -> None:
    """Run torch-model-archiver. Stored, not deflated: weights don't shrink, and every pod start would inflate them.

    Raises:
        BuildError: it failed.
    """
    name = Path(names.MAR_FILE).stem
    command = [
        *(sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", "1"),
        *("--serialized-file", str(parts / _MODEL), "--handler", str(HANDLER / HANDLER_FILES[0])),
        *("--extra-files", ",".join(map(str, extra)), "--config-file", str(parts / _CONFIG)),
        *("--export-path", str(target), "--archive-format", "zip-store"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own arguments
    if done.returncode or not (target / names.MAR_FILE).is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise BuildError(
            "InternalError",
            f"torch-model-archiver ended with {done.returncode} and said: {said[:300]}",
            "This is a defect of bert-operator: please report it with the pod's log.",
            ExitCode.INTERNAL,
        )


class Session:
    """A published or staged artifact, asked as TorchServe's worker asks it."""

    def __init__(self, folder: Path) -> None:
        # Everything is in memory once it is loaded.
        with tempfile.TemporaryDirectory() as unpacked:
            here = Path(unpacked)
            with zipfile.ZipFile(folder / names.MAR_FILE) as archive:
                archive.extractall(here)
            # The one imports the other, as in TorchServe, where both lie in one folder.
            sys.modules["bert_answers"] = _code(here / HANDLER_FILES[2])
            code = _code(here / HANDLER_FILES[1])
            facts = code.Facts.of(yaml.safe_load((here / _CONFIG).read_bytes())["handler"])
            self._bert = code.ServedBert(here, facts, _BATCH)
        self.inputs = [TensorSpec(name=name, dtype="INT64", dims=[-1]) for name in facts.inputs]
        probe = self.answer({name: np.ones((1, 3), dtype=np.int64) for name in facts.inputs[:2]})
        self.outputs = [
            TensorSpec(name=name, dtype="FP32", dims=[-1 if facts.outputs[name] else width, *rest])
            for name, (_, width, *rest) in ((name, values.shape) for name, values in probe.items())
        ]

    def answer(self, request: Arrays) -> Arrays:
        """Answer one request: its text if it has one, else its tensors."""
        if texts.TEXT in request:
            words = {name: str(request[name][0]) for name in (texts.TEXT, texts.PAIR) if name in request}
            body: dict[str, Any] = words | {"raw": True}
        else:
            body = {name: values.tolist() for name, values in request.items()}
        (answer,) = self._bert.answers([self._bert.question(body)])
        if isinstance(answer, Exception):
            raise answer
        return {name: np.asarray(values, dtype=np.float32) for name, values in answer.items()}


def open_session(folder: Path) -> Session:
    """Load the artifact of a folder as a server would."""
    return Session(folder)


def _code(file: Path) -> ModuleType:
    """The module that an archive brings along."""
    spec = importlib.util.spec_from_file_location(f"unpacked_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
