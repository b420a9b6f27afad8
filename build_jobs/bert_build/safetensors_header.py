"""Reads what a safetensors file says about itself, and whether it keeps its word. Loads no tensor.

Called by inspect before anything reads weights, so a broken copy is named as such and not as a crash of a library.
"""

import dataclasses
import json
import math
import struct
from pathlib import Path
from typing import Any, Final

from bert_build import progress
from bert_build.failures import BuildError

_ITEM_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
_LENGTH_BYTES: Final = 8
_LARGEST_HEADER: Final = 16 << 20
"""Of a BERT it is some hundred KiB. The format allows 100 MB, which unpack to gigabytes of Python objects."""
_AGAIN: Final = "Copy or upload the file again (compare its size and sha256 with the original)."


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Type and shape of one tensor in a file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = dataclasses.field(default=0, compare=False)
    """Where its values begin in the file."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read(path: Path, name: str) -> dict[str, Tensor]:
    """Type and shape of every tensor of a file.

    Raises:
        BuildError: the file is cut, damaged or something else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES + 64)
        length = struct.unpack("<Q", start[:_LENGTH_BYTES])[0] if len(start) >= _LENGTH_BYTES else -1
        _refuse_strangers(start, name, size)
        if not 0 < length <= size - _LENGTH_BYTES:
            raise _corrupt(name, f"it has {progress.size(size)}, but its header should have {length} bytes")
        if length > _LARGEST_HEADER:
            raise _corrupt(
                name, f"its header has {progress.size(length)}; at most {progress.size(_LARGEST_HEADER)} make sense"
            )
        file.seek(_LENGTH_BYTES)
        header = _parsed(file.read(length), name)
    begin = _LENGTH_BYTES + length
    return _tensors(header, begin, size - begin, name)


def _refuse_strangers(start: bytes, name: str, size: int) -> None:
    if size == 0:
        raise _corrupt(name, "it is empty")
    if start.startswith(b"version https://git-lfs"):
        raise BuildError(
            "SourceCorrupt",
            f"{name} is a Git LFS pointer of {size} bytes, not weights.",
            "Run `git lfs pull` where the model was cloned, then copy the real file.",
        )
    if start.lstrip()[:1] == b"<":
        raise _corrupt(name, f"it starts with {start[:20]!r}: a web page was saved instead of the file")


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _corrupt(name, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _corrupt(name, "its header is no JSON object")
    return header


def _tensors(header: dict[str, Any], first: int, data: int, name: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    spans: list[tuple[int, int]] = []
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        tensor, span = _tensor(entry, name, key)
        found[key] = dataclasses.replace(tensor, begin=first + span[0])
        spans.append(span)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise _corrupt(name, f"its tensors overlap or leave a hole at byte {begin}")
        end = stop
    if end != data:
        raise _corrupt(name, f"its header names {end} bytes of tensors, but {data} bytes follow it")
    if not found:
        raise _corrupt(name, "it holds no tensors")
    return found


def _tensor(entry: Any, name: str, key: str) -> tuple[Tensor, tuple[int, int]]:  # noqa: ANN401 - unchecked JSON
    try:
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        dtype = entry["dtype"]
        sound = all(isinstance(value, int) and value >= 0 for value in (begin, end, *shape))
    except (LookupError, TypeError, ValueError):
        raise _corrupt(name, f"its header says nothing sensible about {key[:80]!r}") from None
    if not sound or not isinstance(dtype, str):
        raise _corrupt(name, f"its header says nothing sensible about {key[:80]!r}")
    tensor = Tensor(dtype, shape)
    bits = _ITEM_BITS.get(dtype)
    if bits is not None and tensor.elements * bits != (end - begin) * 8:
        raise _corrupt(
            name, f"tensor {key[:80]!r} of type {dtype} and shape {list(shape)} can't have {end - begin} bytes"
        )
    return tensor, (begin, end)


def _corrupt(name: str, found: str) -> BuildError:
    return BuildError("SourceCorrupt", f"{name} is no sound safetensors file: {found}.", _AGAIN)
