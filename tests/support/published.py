"""Artifacts as a build publishes them, made on the spot from a small ONNX model. For tests of what serves them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from bert_operator.api import artifact, names, report, spec
from bert_operator.servers.base import ServedVersion
from support import onnx_bert

Arrays = dict[str, npt.NDArray[Any]]
KEY = "0123456789abcdef" * 2


@dataclass(frozen=True, kw_only=True)
class Published:
    """An artifact's folder and what the operator knows about it."""

    folder: Path
    known: artifact.BertArtifactSpec
    name: str

    def served_as(self, model: spec.BertModel, version: int) -> ServedVersion:
        return ServedVersion(model=model, version=version, artifact_name=self.name, artifact=self.known)

    def answer(self, inputs: Arrays) -> Arrays:
        """What ONNX Runtime itself answers."""
        return answer(self.folder / names.ONNX_FILE, inputs)


def answer(model: Path, inputs: Arrays) -> Arrays:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, inputs), strict=True))


def tokens(rows: int, length: int, shape: onnx_bert.Shape, *, seed: int = 0) -> Arrays:
    """Random token ids of the vocabulary; the second half of every other row is padding."""
    random = np.random.default_rng(seed)
    mask = np.ones((rows, length), np.int64)
    mask[1::2, (length + 1) // 2 :] = 0
    ids = random.integers(0, shape.vocabulary, (rows, length), np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def publish(folder: Path, shape: onnx_bert.Shape, requests: list[Arrays] | None = None) -> Published:
    """Make a model with its golden requests and manifest in `folder`."""
    folder.mkdir(parents=True)
    parameters = onnx_bert.write(folder / names.ONNX_FILE, shape)
    requests = requests or [tokens(2, 8, shape), tokens(3, 16, shape, seed=1)]
    golden: Arrays = {}
    for index, inputs in enumerate(requests):
        golden |= {f"{index}/in/{name}": array for name, array in inputs.items()}
        outputs = answer(folder / names.ONNX_FILE, inputs)
        golden |= {f"{index}/out/{name}": array for name, array in outputs.items()}
    return finish(folder, golden, _report(folder, shape, parameters))


def finish(folder: Path, golden: Arrays, built: report.BuildReport) -> Published:
    """Write golden.npz and the manifest over what is in the folder."""
    np.savez(folder / names.GOLDEN_FILE, **golden)  # type: ignore[arg-type]  # its stub takes them for options
    files = {
        file.name: report.ManifestFile(size=file.stat().st_size, sha256=_sha256(file))
        for file in sorted(folder.iterdir())
        if file.name != names.MANIFEST_FILE
    }
    manifest = report.Manifest(schema_version=1, report=built, files=files)
    path = folder / names.MANIFEST_FILE
    path.write_text(manifest.model_dump_json(by_alias=True), encoding="utf-8")
    known = built.model_copy(update={"manifest_sha256": _sha256(path)})
    return Published(
        folder=folder,
        name=f"onnx-{KEY}-12345678",
        known=artifact.BertArtifactSpec(
            claim_name="store",
            claim_uid="uid",
            path=f"{names.ARTIFACTS_FOLDER}/onnx-{KEY}",
            request_keys=["abc"],
            report=known,
        ),
    )


def _report(folder: Path, shape: onnx_bert.Shape, parameters: int) -> report.BuildReport:
    logits = shape.labels is not None
    dims = [shape.labels] if shape.labels is not None else [-1, shape.hidden]
    return report.BuildReport(
        format="onnx",
        artifact_key=KEY,
        manifest_sha256="",
        weights_digest="00",
        revision="main",
        task="sequence-classification" if logits else "feature-extraction",
        precision="fp32",
        architecture="Bert",
        inputs=[report.TensorSpec(name=name, dtype="INT64", dims=[-1]) for name in onnx_bert.INPUTS],
        outputs=[report.TensorSpec(name="logits" if logits else "last_hidden_state", dtype="FP32", dims=dims)],
        max_sequence_length=shape.longest,
        size_bytes=(folder / names.ONNX_FILE).stat().st_size,
        parameters=parameters,
        fidelity=report.FidelityFigures(
            samples=2,
            max_abs_difference=0,
            min_cosine=1,
            limit_max_abs_difference=1e-3,
            limit_min_cosine=0.9999,
        ),
        toolchain={},
        durations_seconds={},
        peak_memory_bytes=0,
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
