"""What the tests of bert_build share: a request, a model folder without PyTorch, an artifact to publish."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from bert_build import bert_layout, config_checks
from bert_build.job import Job
from bert_build.store import plain_files
from bert_operator.api.report import BuildReport, BuildRequest, FidelityFigures, Manifest, ManifestFile
from bert_operator.api.spec import Build, Task

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
}
CONFIG_TEXT = json.dumps(CONFIG).encode()
NESTED = b"[" * 20_000
"""JSON of somebody who wants to bring a parser down."""


def request(
    *, pvc: str | None = None, repo: str | None = None, source: dict[str, Any] | None = None, **build: Any
) -> BuildRequest:
    if repo is not None:
        source = {"huggingFace": {"repo": repo}}
    source = source or {"pvc": {"claimName": "models"} | ({"path": pvc} if pvc else {})}
    wish = {"task": "feature-extraction", "format": "onnx", "maxSequenceLength": 16, **build}
    return BuildRequest.model_validate(
        {"requestKey": "k1", "model": "m", "version": 1, "build": wish, "owner": "team/bert", **source}
    )


def job(root: Path, wish: BuildRequest) -> Job:
    for name in ("work", "source", "store", "sealed"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return Job(wish, root / "work", root / "source", root / "store", root / "sealed", root / "credentials")


def safetensors(shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> bytes:
    """The bytes of a sound file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * _product(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def shapes(config: dict[str, Any] | None = None, task: Task = Task.FEATURE_EXTRACTION) -> dict[str, tuple[int, ...]]:
    """What a complete checkpoint of this configuration holds."""
    parsed = config_checks.Config.model_validate(config or CONFIG)
    return bert_layout.expected(parsed, task)


def model_folder(folder: Path, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    (folder / "model.safetensors").write_bytes(safetensors(shapes(config)))
    (folder / "vocab.txt").write_text("[PAD]\n[CLS]\n[SEP]\nthe\n")
    return folder


def build(**wish: Any) -> Build:
    return Build.model_validate({"task": "feature-extraction", "maxSequenceLength": 16, **wish})


def staged(folder: Path, content: bytes = b"onnx" * 5000, key: str = "ab" * 16) -> Manifest:
    """A finished artifact in a scratch folder, and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "golden.npz").write_bytes(b"golden")
    files = {
        name: ManifestFile(size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for name, path in plain_files(folder).items()
    }
    return Manifest(schema_version=1, report=report(key), files=files)


def report(key: str = "ab" * 16) -> BuildReport:
    return BuildReport(
        format="onnx",
        artifact_key=key,
        manifest_sha256="",
        weights_digest="cd" * 32,
        revision="main",
        task="feature-extraction",
        precision="fp32",
        architecture="BertModel",
        inputs=[],
        outputs=[],
        max_sequence_length=16,
        size_bytes=1,
        parameters=1,
        fidelity=FidelityFigures(
            samples=1, max_abs_difference=0, min_cosine=1, limit_max_abs_difference=1, limit_min_cosine=0
        ),
        toolchain={},
        durations_seconds={},
        peak_memory_bytes=1,
    )


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
