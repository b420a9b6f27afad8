"""The two digests of a build: of its source model, and of everything that decides the artifact. Pure."""

import hashlib
import json
from typing import Any

from bert_build.state import SourceFile
from bert_operator.api.spec import Build, Fidelity


def weights_digest(source: dict[str, SourceFile]) -> str:
    """Digest of what makes the model: names and digests of configuration, weights and tokenizer."""
    listed = sorted((name, file.sha256) for name, file in source.items() if file.kind != "other")
    return _digest(listed)


def artifact_key(weights: str, build: Build, format_name: str, toolchain: dict[str, str]) -> str:
    """32 hex digits; the same for everybody who asks for the same artifact from the same weights.

    `allowPickle` is left out: it decides which file is read, and that file is part of the weights' digest.
    """
    return _digest({"weights": weights, "recipe": recipe(build, format_name), "toolchain": toolchain})[:32]


def recipe(build: Build, format_name: str) -> dict[str, Any]:
    """What is asked of an artifact, but for its source."""
    return {
        "task": build.task.value,
        "format": format_name,
        "precision": build.precision.value,
        "maxSequenceLength": build.max_sequence_length,
        "sequenceBuckets": sorted(build.sequence_buckets or []),
        "fidelity": fidelity(build.fidelity),
    }


def fidelity(wish: Fidelity) -> dict[str, Any]:
    """What is asked of the comparison. Fields that a later version adds name no other artifact until they are used."""
    first = wish.model_dump(mode="json", by_alias=True, include={"max_abs_difference", "min_cosine"})
    return {**first, **wish.model_dump(mode="json", by_alias=True, exclude_defaults=True)}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
