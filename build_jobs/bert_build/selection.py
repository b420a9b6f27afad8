"""Which files of a model folder or repository a build needs. Pure; used by both kinds of source."""

import json
from collections.abc import Collection
from typing import Final

from bert_build.failures import BuildError, listing
from bert_build.state import Kind

CONFIG: Final = "config.json"
SAFETENSORS: Final = "model.safetensors"
PICKLE: Final = "pytorch_model.bin"
INDEX: Final = ".index.json"
TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
OTHER: Final = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json")
"""Nothing reads them yet, and they don't enter the weights' digest; they say what a served embedding means."""

SMALL: Final = 64 << 20
"""Everything but weights must be smaller than this."""


def small_files(present: Collection[str]) -> dict[str, Kind]:
    """The small files to take, by name."""
    found: dict[str, Kind] = {CONFIG: "config"}
    found |= dict.fromkeys((name for name in TOKENIZER if name in present), "tokenizer")
    found |= dict.fromkeys((name for name in OTHER if name in present), "other")
    return found


def weights_entry(present: Collection[str], where: str, *, allow_pickle: bool) -> str:
    """The file that holds the weights, or the index that names the files that do.

    Raises:
        BuildError: there are no weights that we may read.
    """
    for name in (SAFETENSORS, SAFETENSORS + INDEX):
        if name in present:
            return name
    pickles = [name for name in (PICKLE, PICKLE + INDEX) if name in present]
    if pickles and allow_pickle:
        return pickles[0]
    if pickles:
        raise BuildError(
            "PickleRefused",
            f"{where} holds {pickles[0]} but no {SAFETENSORS}; a pickle can run code when it is read.",
            "Convert it (`AutoModel.from_pretrained(...).save_pretrained(...)` writes safetensors) or set "
            "build.allowPickle: true (it is then read with weights_only).",
        )
    raise BuildError(
        "WeightsMissing", f"{where} holds no {SAFETENSORS}; it holds {listing(list(present))}.", _hint(present)
    )


def shards(index: bytes, name: str) -> list[str]:
    """The files that an index names.

    Raises:
        BuildError: it is no index, or names files elsewhere.
    """
    try:
        found = sorted(set(json.loads(index)["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BuildError(
            "SourceCorrupt", f"{name} is no index: it has no weight_map.", "Upload the file again."
        ) from error
    ending = SAFETENSORS.rpartition(".")[2] if name.startswith(SAFETENSORS) else PICKLE.rpartition(".")[2]
    for shard in found:
        if not isinstance(shard, str) or "/" in shard or shard.startswith(".") or not shard.endswith(f".{ending}"):
            raise BuildError(
                "SourceUnsafe",
                f"{name} names the file {str(shard)[:100]!r}; it may only name *.{ending} files beside itself.",
                "Correct weight_map.",
            )
    if not found:
        raise BuildError("SourceCorrupt", f"{name} names no files.", "Upload the file again.")
    return found


def _hint(present: Collection[str]) -> str:
    others = [name for name in present if name.endswith((".safetensors", ".bin")) and "/" not in name]
    if others:
        return f"Rename the weights ({listing(others, 3)}) to {SAFETENSORS}."
    foreign = [name for name in present if name.endswith((".h5", ".msgpack", ".onnx", ".ckpt"))]
    if foreign:
        return f"{listing(foreign, 3)} can't be read: save the model as safetensors with `save_pretrained`."
    return f"Save the model with `save_pretrained`: it writes {CONFIG} and {SAFETENSORS}."
