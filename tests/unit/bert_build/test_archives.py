"""The one kind of archive that is opened must not hold more than its own size."""

import zipfile
from pathlib import Path

import pytest

from bert_build import archives
from bert_build.failures import BuildError


def written(path: Path, content: bytes, compression: int) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data/0", content)
    return path


def test_tensors_as_they_are_pass_and_other_files_are_none_of_its_business(tmp_path: Path) -> None:
    archives.refuse_bombs(written(tmp_path / "model.bin", b"\1" * 5000, zipfile.ZIP_STORED), "model.bin")
    (tmp_path / "old.bin").write_bytes(b"\x80\x02")
    archives.refuse_bombs(tmp_path / "old.bin", "old.bin")


def test_what_would_grow_is_refused_unread(tmp_path: Path) -> None:
    path = written(tmp_path / "model.bin", bytes(5_000_000), zipfile.ZIP_DEFLATED)
    with pytest.raises(BuildError, match=r"has 4\.\d KiB and would unpack to 4\.8 MiB") as caught:
        archives.refuse_bombs(path, "model.bin")
    assert caught.value.reason == "SourceUnsafe"
    assert "safetensors" in caught.value.next_step


def test_entries_that_share_their_bytes_are_refused_too(tmp_path: Path) -> None:
    path = written(tmp_path / "model.bin", b"\1" * 5000, zipfile.ZIP_STORED)
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    directory, end = whole[start:-22], bytearray(whole[-22:])
    for place in (8, 10):
        end[place : place + 2] = (9).to_bytes(2, "little")
    end[12:16] = (9 * len(directory)).to_bytes(4, "little")
    path.write_bytes(whole[:start] + 9 * directory + end)
    with pytest.raises(BuildError, match="would unpack to"):
        archives.refuse_bombs(path, "model.bin")


def test_a_cut_archive_is_named_as_damaged(tmp_path: Path) -> None:
    path = written(tmp_path / "model.bin", b"\1" * 5000, zipfile.ZIP_STORED)
    whole = path.read_bytes()
    path.write_bytes(whole[3000:])
    with pytest.raises(BuildError) as caught:
        archives.refuse_bombs(path, "model.bin")
    assert caught.value.reason in ("SourceCorrupt", "SourceUnsafe")
