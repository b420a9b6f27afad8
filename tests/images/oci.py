"""Writes one image of an OCI layout folder as the archive that containerd imports; drops what old images left there.

`buildah` calls it. The layout keeps layers from build to build: only new ones are exported, the archive is a copy.
"""

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any, Final

_REFERENCE: Final = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME: Final = "io.containerd.image.name"


def write_archive(layout: Path, label: str, reference: str, archive: Path) -> None:
    """Write the image that the layout calls `label` to `archive`, named `reference`; appears whole or not at all."""
    manifest = _labelled(layout, label)
    named = {**manifest, "annotations": {_REFERENCE: reference, _CONTAINERD_NAME: reference}}
    index = {"schemaVersion": 2, "manifests": [named]}
    partial = archive.with_suffix(".partial")
    with tarfile.open(partial, "w", bufsize=1 << 20) as tar:
        _add_text(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}))
        _add_text(tar, "index.json", json.dumps(index))
        for digest in blobs_of(layout, manifest):
            tar.add(_blob(layout, digest), arcname=f"blobs/{digest.replace(':', '/')}")
    partial.replace(archive)


def keep_only(layout: Path, labels: set[str]) -> None:
    """Forget all images but those, and remove the layers that none of them has."""
    index = json.loads((layout / "index.json").read_text())
    index["manifests"] = [
        entry for entry in index["manifests"] if entry.get("annotations", {}).get(_REFERENCE) in labels
    ]
    (layout / "index.json").write_text(json.dumps(index))
    kept = {_blob(layout, digest) for entry in index["manifests"] for digest in blobs_of(layout, entry)}
    for blob in (layout / "blobs").glob("*/*"):
        if blob not in kept:
            blob.unlink()


def blobs_of(layout: Path, manifest: dict[str, Any]) -> list[str]:
    """The digests of an image: its manifest, its config, its layers."""
    content = json.loads(_blob(layout, manifest["digest"]).read_text())
    parts = [content["config"], *content["layers"]]
    return list(dict.fromkeys([manifest["digest"], *(part["digest"] for part in parts)]))


def _labelled(layout: Path, label: str) -> dict[str, Any]:
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    found: dict[str, Any] = next(entry for entry in entries if entry.get("annotations", {}).get(_REFERENCE) == label)
    return found


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text.encode())
    tar.addfile(info, BytesIO(text.encode()))
