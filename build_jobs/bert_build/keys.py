"""The two digests of a build: of its source model, and of everything that decides the artifact. Pure."""

import hashlib
import json

from bert_build.state import SourceFile
from bert_operator.api.spec import Build


def weights_digest(source: dict[str, SourceFile]) -> str:
    """Digest of what makes the model: names and digests of configuration, weights and tokenizer."""
    listed = sorted((name, file.sha256) for name, file in source.items() if file.kind != "other")
    return _digest(listed)


def artifact_key(weights: str, build: Build, format_name: str, toolchain: dict[str, str]) -> str:
    """32 hex digits; the same for everybody who asks for the same artifact from the same weights.

    `allowPickle` is left out: it decides which file is read, and that file is part of the weights' digest.
    """
    recipe = {
        "task": build.task.value,
        "format": format_name,
        "precision": build.precision.value,
        "maxSequenceLength": build.max_sequence_length,
        "sequenceBuckets": sorted(build.sequence_buckets or []),
        "fidelity": build.fidelity.model_dump(mode="json", by_alias=True),
    }
    return _digest({"weights": weights, "recipe": recipe, "toolchain": toolchain})[:32]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
