"""Asks an endpoint like a client and the source model like a judge, and says how close they are. For every server."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import yaml
from tokenizers import Tokenizer

from bert_build.clients import CLIENTS, connect
from bert_operator.api.report import ServedModel
from support.installation import Images, loader_pod
from support.kube import Kube

Floats = npt.NDArray[np.float32]
Ids = Mapping[str, npt.NDArray[np.int64]]
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
MIN_COSINE: Final = 0.9999
SENTENCES: Final = (
    "The cluster schedules the pods onto nodes.",
    "Kubernetes decides where containers run.",
    "My grandmother bakes the best apple pie.",
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a BertDeployment's manifest says about its first model."""

    name: str
    server: str
    model: str
    task: str
    folder: str
    """Folder of its source on the claim `models`; of a source on a hub, the model's name."""
    framework: str = "pytorch"

    @classmethod
    def of(cls, bert: Mapping[str, Any]) -> "Sample":
        """Of a manifest, or of a live object."""
        spec, model = bert["spec"], bert["spec"]["models"][0]
        return cls(
            name=bert["metadata"]["name"],
            server=spec["server"]["type"],
            model=model["name"],
            task=model["build"]["task"],
            folder=(model["versions"][0]["source"].get("pvc") or {}).get("path", model["name"]),
            framework=model["build"].get("framework", "pytorch"),
        )

    @classmethod
    def read(cls, path: Path) -> "Sample":
        """Of a file."""
        return cls.of(yaml.safe_load(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True)
class Match:
    """How close an endpoint's answer is to the source model's: worst case over all real tokens, or all rows."""

    answer: Floats
    cosine: float
    max_abs_difference: float

    @property
    def good(self) -> bool:
        """Whether the endpoint answers like its source model."""
        return self.cosine >= MIN_COSINE


def tokens(model: Path, sentences: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Token ids of the sentences, padded to the longest: three int64 arrays [sentence, token]."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    columns = ([e.ids for e in encoded], [e.attention_mask for e in encoded], [e.type_ids for e in encoded])
    return {name: np.array(column, dtype=np.int64) for name, column in zip(INPUTS, columns, strict=True)}


def compare(kube: Kube, images: Images, sample: Sample, ids: Ids) -> Match:
    """Ask both and compare every output; the match tells the worst, and the answer of the first.

    The source model lies on the claim `models` and is asked in a pod of its framework's build image.

    Raises:
        ValueError: one of them couldn't be asked, or the endpoint answered without data.
    """
    port = int(CLIENTS[sample.server][1].partition(":")[2])
    with kube.port_forward(f"service/{sample.name}", port) as address:
        found = endpoint(sample.server, address, sample.model, ids)
    judge = images.tensorflow if sample.framework == "tensorflow" else images.pytorch
    with loader_pod(kube, judge, "models", "judge") as pod:
        (truth,) = source_model(kube, pod, f"/data/{sample.folder}", sample.task, [ids], framework=sample.framework)
    if found.keys() != truth.keys():
        raise ValueError(f"the endpoint answered {', '.join(found)}, the source model {', '.join(truth)}")
    told = [match(found[name], np.array(truth[name], dtype=np.float32), ids["attention_mask"]) for name in truth]
    return replace(
        told[0],
        cosine=min(one.cosine for one in told),
        max_abs_difference=max(one.max_abs_difference for one in told),
    )


def endpoint(server: str, address: str, model: str, ids: Ids, version: int = 1) -> dict[str, Floats]:
    """What a server answers: output -> values.

    Args:
        server: triton, tfserving or torchserve.
        address: host:port of the API that its client speaks.
        model: name of the model there.
        ids: its inputs.
        version: of the model.

    Raises:
        ValueError: an output is empty.
    """
    asked = ServedModel(name=model, version=version, path="", artifact="", manifest_sha256="", max_batch_size=8)
    client = connect(server, address)
    try:
        answer = client.infer(asked, ids)
    finally:
        client.close()
    if not answer or not all(values.size for values in answer.values()):
        raise ValueError(f"{model} answered without data")
    return {output: np.asarray(values, dtype=np.float32) for output, values in answer.items()}


def source_model(
    kube: Kube, pod: str, folder: str, task: str, requests: Sequence[Ids], *, framework: str
) -> list[dict[str, Any]]:
    """What the source model answers to each request, computed in its own framework by a pod that mounts it.

    Raises:
        ValueError: it couldn't be asked.
    """
    asked = json.dumps([{name: values.tolist() for name, values in ids.items()} for ids in requests])
    command = ["kubectl", "--namespace", kube.namespace, "exec", "-i", pod, "--"]
    command += ["python", "-m", "bert_build", "reference", "--model", folder, "--task", task, "--framework", framework]
    done = subprocess.run(command, env=kube.environment(), input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the source model could not be asked: {done.stderr.strip()[-800:]}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def match(answer: Floats, source: Floats, mask: npt.NDArray[np.int64]) -> Match:
    """Compare two answers; of token outputs [row, token, width] only the real tokens count.

    Raises:
        ValueError: they differ in shape.
    """
    if answer.shape != source.shape:
        raise ValueError(f"the endpoint answered with shape {answer.shape}, the source model's is {source.shape}")
    real = mask.astype(bool) if answer.ndim > mask.ndim else slice(None)
    left, right = answer[real].astype(np.float64), source[real].astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return Match(
        answer=answer,
        cosine=float(((left * right).sum(axis=1) / lengths).min()),
        max_abs_difference=float(np.abs(left - right).max()),
    )
