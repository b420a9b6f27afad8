"""The two digests of a build: of its source model, and of everything that decides the artifact. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bert_build.state import SourceFile
from bert_operator.api.spec import Build, Fidelity


def weights_digest(source: dict[str, SourceFile]) -> str:
    """Digest of what makes the model: names and digests of configuration, weights and tokenizer."""
    listed = sorted((name, file.sha256) for name, file in source.items() if file.kind != "other")
    return _digest(listed)


def artifact_key(
    weights: str, build: Build, format_name: str, toolchain: dict[str, str], texts: Mapping[str, str] | None = None
) -> str:
    """32 hex digits; the same for everybody who asks for the same artifact from the same weights.

    `allowPickle` is left out: it decides which file is read, and that file is part of the weights' digest.
    """
    return _digest({"weights": weights, "recipe": recipe(build, format_name, texts), "toolchain": toolchain})[:32]


def recipe(build: Build, format_name: str, texts: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What is asked of an artifact, but for its source.

    Args:
        build: what the user asks for.
        format_name: of the artifact.
        texts: digests of files of texts, by what they are for: what they say counts, not where they lie.
    """
    given = {"texts": dict(texts)} if texts else {}
    return given | {
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
    return {**first, **wish.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"samples_from"})}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
