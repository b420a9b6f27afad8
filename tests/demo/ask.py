"""Asks the endpoint like a client, and the source model like a judge, and compares the two."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tritonclient import grpc

from support.kube import Kube

Floats = npt.NDArray[np.float32]
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")


def tokens(model: Path, sentences: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Token ids of the sentences, padded to the longest: three int64 arrays [sentence, token]."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    columns = ([e.ids for e in encoded], [e.attention_mask for e in encoded], [e.type_ids for e in encoded])
    return {name: np.array(column, dtype=np.int64) for name, column in zip(INPUTS, columns, strict=True)}


def endpoint(address: str, model: str, output: str, ids: dict[str, npt.NDArray[np.int64]]) -> Floats:
    """What Triton answers.

    Args:
        address: host:port of its gRPC API.
        model: name of the model there.
        output: name of the output.
        ids: its inputs.
    """
    inputs = []
    for name, values in ids.items():
        tensor = grpc.InferInput(name, list(values.shape), "INT64")
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    with grpc.InferenceServerClient(address) as client:
        answer = client.infer(model, inputs).as_numpy(output)
    if answer is None or not answer.size:
        raise ValueError(f"{model} answered without data in {output}")
    return np.asarray(answer, dtype=np.float32)


def source_model(kube: Kube, pod: str, folder: str, task: str, ids: dict[str, npt.NDArray[np.int64]]) -> dict[str, Any]:
    """What the source model answers, computed by PyTorch in a pod of the build image that mounts it."""
    request = json.dumps([{name: values.tolist() for name, values in ids.items()}])
    command = ["kubectl", "--namespace", kube.namespace, "exec", "-i", pod, "--"]
    command += ["python", "-m", "bert_build", "reference", "--model", folder, "--task", task]
    done = subprocess.run(command, env=kube.environment(), input=request, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the source model could not be asked: {done.stderr.strip()[-800:]}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers[0]


def sentence_embeddings(hidden: Floats, mask: npt.NDArray[np.int64]) -> Floats:
    """Mean of the real tokens' vectors, normalised: [sentence, hidden]."""
    weights = mask[:, :, None].astype(np.float32)
    means = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)


def worst_cosine(one: Floats, other: Floats, mask: npt.NDArray[np.int64]) -> float:
    """Smallest cosine similarity of any real token's vectors."""
    real = mask.astype(bool)
    left, right = one[real].astype(np.float64), other[real].astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / lengths).min())


def similarity_table(sentences: Sequence[str], embeddings: Floats) -> str:
    """How alike the sentences are, as a small table."""
    similar = embeddings @ embeddings.T
    width = max(map(len, sentences))
    head = " " * (width + 4) + "".join(f"{f'({i + 1})':>8}" for i in range(len(sentences)))
    rows = [
        f"({i + 1}) {sentence:<{width}}" + "".join(f"{similar[i, j]:8.3f}" for j in range(len(sentences)))
        for i, sentence in enumerate(sentences)
    ]
    return "\n".join([head, *rows])
