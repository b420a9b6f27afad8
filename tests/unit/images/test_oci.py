"""The archive that containerd imports: one image of a layout, complete and named."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from images import oci

_NAME = "org.opencontainers.image.ref.name"


def _put(layout: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return f"sha256:{digest}"


def _image(layout: Path, label: str, layers: list[bytes]) -> dict[str, Any]:
    config = _put(layout, f"config of {label}".encode())
    manifest = {"config": {"digest": config}, "layers": [{"digest": _put(layout, layer)} for layer in layers]}
    return {"digest": _put(layout, json.dumps(manifest).encode()), "annotations": {_NAME: label}}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    folder = tmp_path / "layout"
    manifests = [_image(folder, "old", [b"shared", b"only old"]), _image(folder, "new", [b"shared", b"only new"])]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    return folder


def _layers(folder: Path) -> set[bytes]:
    return {blob.read_bytes() for blob in (folder / "blobs" / "sha256").iterdir()} & {
        b"shared",
        b"only old",
        b"only new",
    }


def test_an_archive_holds_the_one_image_under_its_full_name(layout: Path, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    oci.write_archive(layout, "new", "localhost/x:1", archive)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    (manifest,) = json.loads((tmp_path / "out" / "index.json").read_text())["manifests"]
    assert manifest["annotations"] == {_NAME: "localhost/x:1", "io.containerd.image.name": "localhost/x:1"}
    assert _layers(tmp_path / "out") == {b"shared", b"only new"}
    assert list(tmp_path.glob("*.partial")) == []


def test_forgetting_an_image_removes_the_layers_that_no_other_has(layout: Path, tmp_path: Path) -> None:
    oci.keep_only(layout, {"new"})
    assert _layers(layout) == {b"shared", b"only new"}
    oci.write_archive(layout, "new", "localhost/x:1", tmp_path / "image.tar")
