"""Which files of a model folder or repository a build needs. Pure; used by both kinds of source."""

import json
import re
from collections.abc import Collection
from typing import Final

from bert_build.failures import BuildError, listing
from bert_build.state import Kind
from bert_operator.api.spec import Build, Format, Framework

CONFIG: Final = "config.json"
SAFETENSORS: Final = "model.safetensors"
PICKLE: Final = "pytorch_model.bin"
SAVED_MODEL: Final = "saved_model.pb"
SAVED_MODEL_FOLDERS: Final = ("variables", "assets")
"""What belongs to saved_model.pb, in folders beside it."""
INDEX: Final = ".index.json"
TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
POOLING: Final = ("modules.json", "1_Pooling/config.json")
"""What sentence.py reads: how a sentence-transformers model makes one vector of a sentence."""
OTHER: Final = ("sentence_bert_config.json",)
"""Nothing reads them, and they don't enter the weights' digest."""

_PLAIN: Final = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,200}")
"""A file's name without a folder. In a bucket or on a mirror names may hold anything, `..` too."""

SMALL: Final = 64 << 20
"""Everything but weights must be smaller than this."""


def small_files(present: Collection[str]) -> dict[str, Kind]:
    """The small files to take, by name."""
    found: dict[str, Kind] = {CONFIG: "config"}
    found |= dict.fromkeys((name for name in TOKENIZER if name in present), "tokenizer")
    found |= dict.fromkeys((name for name in POOLING if name in present), "pooling")
    found |= dict.fromkeys((name for name in OTHER if name in present), "other")
    return found


def weights_entry(present: Collection[str], where: str, build: Build) -> str:
    """The file that holds the weights, or the index that names the files that do.

    Raises:
        BuildError: there are no weights that we may read.
    """
    if build.framework is Framework.TENSORFLOW:
        return _saved_model(present, where)
    for name in (SAFETENSORS, SAFETENSORS + INDEX):
        if name in present:
            return name
    pickles = [name for name in (PICKLE, PICKLE + INDEX) if name in present]
    if pickles and build.format is Format.SAVEDMODEL:
        raise BuildError(
            "PickleRefused",
            f"{where} holds {pickles[0]} but no {SAFETENSORS}; only PyTorch reads it, and build.format savedmodel is "
            "made without PyTorch.",
            "Convert it: `AutoModel.from_pretrained(...).save_pretrained(...)` writes safetensors.",
        )
    if pickles and build.allow_pickle:
        return pickles[0]
    if pickles:
        raise BuildError(
            "PickleRefused",
            f"{where} holds {pickles[0]} but no {SAFETENSORS}; a pickle can run code when it is read.",
            "Convert it (`AutoModel.from_pretrained(...).save_pretrained(...)` writes safetensors) or set "
            "build.allowPickle: true (it is then read with weights_only).",
        )
    if SAVED_MODEL in present:
        raise BuildError(
            "FrameworkMismatch",
            f"{where} holds {SAVED_MODEL}, a TensorFlow SavedModel, but build.framework is {build.framework.value}.",
            "Set build.framework: tensorflow.",
        )
    raise BuildError(
        "WeightsMissing", f"{where} holds no {SAFETENSORS}; it holds {listing(list(present))}.", _hint(present)
    )


def weights_files(present: Collection[str], entry: str) -> list[str]:
    """The files with weights that are known without looking into `entry`: the others are named by it.

    Raises:
        BuildError: a name leads out of the model's folder.
    """
    if entry != SAVED_MODEL:
        return [entry]
    beside = sorted(name for name in present if name.startswith(tuple(f"{f}/" for f in SAVED_MODEL_FOLDERS)))
    for name in beside:
        if not _PLAIN.fullmatch(name.partition("/")[2]):
            raise BuildError(
                "SourceUnsafe",
                f"The source names a file {name[:100]!r}; right below {' and '.join(SAVED_MODEL_FOLDERS)} a SavedModel "
                "has plain names.",
                "Rename or remove the file.",
            )
    return [entry, *beside]


def _saved_model(present: Collection[str], where: str) -> str:
    checkpoints = [name for name in (SAFETENSORS, SAFETENSORS + INDEX, PICKLE, PICKLE + INDEX) if name in present]
    if SAVED_MODEL in present:
        if not any(name.startswith("variables/variables.") for name in present):
            raise BuildError(
                "WeightsMissing",
                f"{where} holds {SAVED_MODEL} without its folder variables/.",
                "Copy the whole SavedModel: the weights are in variables/.",
            )
        return SAVED_MODEL
    if checkpoints:
        raise BuildError(
            "FrameworkMismatch",
            f"{where} holds {checkpoints[0]}, a PyTorch checkpoint, but build.framework is tensorflow.",
            "Set build.framework: pytorch (or leave it out).",
        )
    raise BuildError(
        "WeightsMissing",
        f"{where} holds no {SAVED_MODEL}; it holds {listing(list(present))}.",
        f"Save the model with `tf.saved_model.save(model, folder)` and put {CONFIG} and the tokenizer's files beside "
        f"{SAVED_MODEL}.",
    )


def shards(index: bytes, name: str) -> list[str]:
    """The files that an index names.

    Raises:
        BuildError: it is no index, or names files elsewhere.
    """
    try:
        found = sorted(set(json.loads(index)["weight_map"].values()))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
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
    if "tf_model.h5" in present:
        return (
            "tf_model.h5 can't be read: transformers 5 dropped it. Convert it once with transformers 4 and TensorFlow: "
            "`AutoModel.from_pretrained(folder, from_tf=True).save_pretrained(folder)` writes model.safetensors (for a "
            "model with a head, the class that config.json names in architectures)."
        )
    foreign = [name for name in present if name.endswith((".h5", ".msgpack", ".onnx", ".ckpt"))]
    if foreign:
        return f"{listing(foreign, 3)} can't be read: save the model as safetensors with `save_pretrained`."
    return f"Save the model with `save_pretrained`: it writes {CONFIG} and {SAFETENSORS}."
