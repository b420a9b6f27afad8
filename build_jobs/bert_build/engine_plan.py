"""What is decided about a TensorRT engine before anything is compiled: shapes, precision, limits, key. Pure.

`stage` writes them to compile.json for the script that runs on the GPU; `engine` holds the result against them.
"""

import hashlib
import json
from typing import Any, Final

from bert_build import keys, samples
from bert_operator.api import steps
from bert_operator.api.report import EngineProfile, OnnxArtifact
from bert_operator.api.spec import Build, Precision

WISH_FILE: Final = "compile.json"
"""In the work folder: what the script is to do."""
FOUND_FILE: Final = "compiled.json"
"""In the work folder: what the script found."""
ANSWERS_FILE: Final = "engine-answers.json"
"""In the work folder: what the engine answered; the tensors lie beside it as plain bytes."""
CACHES_FOLDER: Final = "timing-caches"
"""In the work folder and beside the artifacts of the store: what TensorRT measured on each kind of GPU."""
GRAPH_FILE: Final = "engine/model.onnx"

WORKSPACE_BYTES: Final = 4 << 30
"""Scratch memory that a kernel may take on the GPU; BERT's need far less."""
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
OPTIMIZATION_LEVEL: Final = 3
"""TensorRT's default: more takes much longer and seldom helps a transformer."""


def profiles(build: Build) -> list[EngineProfile]:
    """The shapes that the engine takes, [batch, tokens]: one profile for each padding target, without a gap.

    A request of any length up to the longest fits exactly one profile. Without sequenceBuckets there is one for all
    lengths. An engine is fastest at `opt`: half of the largest batch (batches are seldom full) at the profile's longest
    (requests are padded to that).
    """
    longest, batch = build.max_sequence_length, build.engine_batch
    bounds = samples.buckets(build) if build.sequence_buckets else [longest]
    return [
        EngineProfile(min=[1, below + 1], opt=[max(1, batch // 2), bound], max=[batch, bound])
        for below, bound in zip([0, *bounds], bounds, strict=False)
    ]


def profile_for(shapes: list[EngineProfile], batch: int, length: int) -> int:
    """Number of the profile that takes a request.

    Raises:
        ValueError: none does.
    """
    for number, profile in enumerate(shapes):
        low, high = profile.min, profile.max
        if low[0] <= batch <= high[0] and low[1] <= length <= high[1]:
            return number
    raise ValueError(f"no profile takes a batch of {batch} with {length} tokens")


def wish(build: Build, onnx: OnnxArtifact, tensors: dict[str, str], toolchain: dict[str, str]) -> dict[str, Any]:
    """Everything that the script is told, but for the requests and what the store has already.

    Args:
        build: what the user asks for.
        onnx: what is compiled.
        tensors: type of each input and output of the graph, inputs first, by Triton's names.
        toolchain: what decides, beside the build, which graph is compiled.
    """
    return {
        "graph": GRAPH_FILE,
        "plan": "artifact/model.plan",
        "inputs": [name for name in tensors if name in _INPUTS],
        "tensors": tensors,
        "profiles": [profile.model_dump() for profile in profiles(build)],
        "workspace_bytes": WORKSPACE_BYTES,
        "optimization_level": OPTIMIZATION_LEVEL,
        **attempt(build, build.precision.value),
        "expected": {
            "profile": onnx.profile,
            "compute_capability": onnx.compute_capability,
            "tensorrt_version": onnx.tensorrt_version,
        },
        "key_material": key_material(build, onnx.artifact_key, toolchain),
    }


def attempt(build: Build, rung: str) -> dict[str, Any]:
    """What the script is told about one precision of those that an engine may get."""
    order = steps.ladder(build)
    return {
        "precision": rung,
        # FP32 means FP32: with TF32 products keep 10 bits of their operands. Beside FP16 it would do no harm.
        "tf32": rung != Precision.FP32.value,
        "least_capability": steps.BF16_FROM if rung == Precision.BF16.value else 0.0,
        # Then what TensorRT refuses ends no Job: the next precision is tried.
        "falls_back": order.index(rung) + 1 < len(order),
        "settled": False,
    }


def key_material(build: Build, onnx_key: str, toolchain: dict[str, str]) -> dict[str, Any]:
    """What decides the engine, but for the GPU and the TensorRT that compile it."""
    return {
        "onnx": onnx_key,
        "precision": build.precision.value,
        "profiles": [profile.model_dump() for profile in profiles(build)],
        "workspaceBytes": WORKSPACE_BYTES,
        "optimizationLevel": OPTIMIZATION_LEVEL,
        "fidelity": keys.fidelity(build.fidelity),
        "toolchain": toolchain,
    }


def artifact_key(material: dict[str, Any], compute_capability: str, tensorrt_version: str) -> str:
    """32 hex digits: an engine is another one on any other kind of GPU, and for any other TensorRT."""
    whole = {**material, "computeCapability": compute_capability, "tensorrtVersion": tensorrt_version}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]
