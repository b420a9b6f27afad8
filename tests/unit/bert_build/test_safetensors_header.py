"""A broken weights file is named as what it is, before any library trips over it."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_build import safetensors_header
from bert_build.failures import BuildError
from unit.bert_build import building

GOOD = building.safetensors({"a": (2, 3), "b": (4,)})


def read(tmp_path: Path, content: bytes) -> dict[str, safetensors_header.Tensor]:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return safetensors_header.read(path, "model.safetensors")


def refused(tmp_path: Path, content: bytes) -> BuildError:
    with pytest.raises(BuildError) as caught:
        read(tmp_path, content)
    assert caught.value.reason == "SourceCorrupt"
    assert "model.safetensors" in caught.value.message
    assert caught.value.next_step
    return caught.value


def header(entries: dict[str, object], data: int) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def test_sound_file_tells_types_and_shapes(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    assert found == {"a": safetensors_header.Tensor("F32", (2, 3)), "b": safetensors_header.Tensor("F32", (4,))}
    assert found["a"].elements == 6


def test_file_that_the_safetensors_library_wrote_is_read_alike(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    library.save_file({"x": numpy.ones((3, 5), dtype="float16"), "y": numpy.ones((), dtype="float32")}, path)
    found = safetensors_header.read(path, path.name)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        "x": ("F16", (3, 5)),
        "y": ("F32", ()),
    }


@pytest.mark.parametrize("cut", range(0, len(GOOD), 7))
def test_every_cut_is_noticed(tmp_path: Path, cut: int) -> None:
    refused(tmp_path, GOOD[:cut])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>login</html>", "web page"),
        (struct.pack("<Q", 1 << 60) + b"{}", "header should have"),
        (struct.pack("<Q", 4) + b"nope", "no JSON"),
        (struct.pack("<Q", 2) + b"[]", "no JSON object"),
        (struct.pack("<Q", 2) + b"{}", "no tensors"),
        (GOOD + b"more", "bytes follow"),
        (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}}, 9), "can't have 9 bytes"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8), "hole"),
        (header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, 4), "nothing sensible"),
        (header({"a": 3}, 4), "nothing sensible"),
    ],
)
def test_each_kind_of_damage_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refused(tmp_path, content).message


@given(content=st.binary(max_size=200), front=st.booleans())
def test_arbitrary_bytes_never_crash_the_reader(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    front: bool,  # noqa: FBT001 - hypothesis fills it in
) -> None:
    text = struct.pack("<Q", len(content)) + content if front else content
    try:
        read(tmp_path_factory.mktemp("fuzz"), text)
    except BuildError as error:
        assert error.reason == "SourceCorrupt"  # noqa: PT017 - either it is sound, or it is refused like this
