import json
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from localcluster.archives import archived_images, copy_archive, write_archive
from localcluster.containerd import parse_images
from localcluster.errors import ClusterError
from localcluster.store import outdated

_NAME = "localhost/tool:1"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "tool.tar"
    write_archive(path, _NAME, {"bin/tool": b"program"}, ["/bin/tool"])
    return path


def _blobs(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_every_blob_is_named_by_its_digest(archive: Path) -> None:
    blobs = {name: blob for name, blob in _blobs(archive).items() if name.startswith("blobs/")}
    assert len(blobs) == 3
    assert all(name == f"blobs/sha256/{sha256(blob).hexdigest()}" for name, blob in blobs.items())


def test_the_index_leads_to_the_program(archive: Path, tmp_path: Path) -> None:
    blobs = _blobs(archive)
    entry = json.loads(blobs["index.json"])["manifests"][0]
    manifest = json.loads(blobs[f"blobs/{entry['digest'].replace(':', '/')}"])
    config = json.loads(blobs[f"blobs/{manifest['config']['digest'].replace(':', '/')}"])
    layer = tmp_path / "layer.tar"
    layer.write_bytes(blobs[f"blobs/{manifest['layers'][0]['digest'].replace(':', '/')}"])
    assert config["config"]["Entrypoint"] == ["/bin/tool"]
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    with tarfile.open(layer) as tar:
        assert tar.getmember("bin/tool").mode == 0o755


def test_the_same_files_make_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    write_archive(again, _NAME, {"bin/tool": b"program"}, ["/bin/tool"])
    assert again.read_bytes() == archive.read_bytes()


def test_an_archive_that_a_node_has_is_recognised(archive: Path) -> None:
    ((name, digest),) = archived_images(archive)
    assert name == _NAME
    table = f"REF TYPE DIGEST SIZE PLATFORMS LABELS\n{name} application/x {digest} 1.0 MiB linux/amd64 -\n"
    assert archived_images(archive) <= parse_images(table)


def test_an_archive_without_an_index_is_of_no_known_image(tmp_path: Path) -> None:
    path = tmp_path / "old.tar"
    with tarfile.open(path, "w"):
        pass
    assert archived_images(path) == set()


def test_a_copy_lacks_only_the_blobs_that_are_there_already(archive: Path, tmp_path: Path) -> None:
    blobs = _blobs(archive)
    there = next(name for name in blobs if name.startswith("blobs/"))
    copy = tmp_path / "copy.tar"

    with copy.open("wb") as out:
        copy_archive(archive, out, {Path(there).name})

    assert _blobs(copy) == {name: blob for name, blob in blobs.items() if name != there}


def test_of_an_image_that_was_named_anew_the_older_ones_go_and_no_others() -> None:
    names = {"local/pause:1", "local/tool:1", "local/tool:2", "local/tools:1"}
    assert outdated(names, {"local/tool:2"}) == {"local/tool:1"}


def test_a_file_that_is_no_archive_is_the_users_to_fix(tmp_path: Path) -> None:
    path = tmp_path / "broken.tar"
    path.write_bytes(b"not a tar")
    with pytest.raises(ClusterError, match=r"broken\.tar"):
        archived_images(path)


def test_no_image_is_in_an_empty_table() -> None:
    assert parse_images("REF TYPE DIGEST SIZE PLATFORMS LABELS\n") == set()
