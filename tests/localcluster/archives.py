"""Container images without a registry or an image builder: OCI archives, written and read.

The pause image, which every pod's sandbox needs, is made here from a few lines of C. `write_archive` also serves tests
that need an image of one static program.
"""

import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from localcluster.config import PAUSE_IMAGE
from localcluster.errors import ClusterError
from localcluster.processes import run

_PAUSE_SOURCE = Path(__file__).parent / "pause.c"
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def pause_archive(cache: Path) -> Path:
    """The archive of the pause image, made on first use."""
    key = hashlib.sha256(_PAUSE_SOURCE.read_bytes()).hexdigest()[:16]
    archive = cache / "images" / f"pause-{key}.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        program = archive.with_suffix(f".{os.getpid()}")
        run(["gcc", "-O2", "-static", "-o", str(program), str(_PAUSE_SOURCE)])
        write_archive(archive, PAUSE_IMAGE, {"pause": program.read_bytes()}, ["/pause"])
        program.unlink()
    return archive


def copy_archive(archive: Path, out: IO[bytes], without: Collection[str]) -> None:
    """Write an archive's members to a stream, except the blobs whose digests (sha256, hexadecimal) are named."""
    with tarfile.open(archive) as source, tarfile.open(fileobj=out, mode="w|") as target:
        for member in source:
            if not (member.name.startswith("blobs/sha256/") and Path(member.name).name in without):
                target.addfile(member, source.extractfile(member) if member.isfile() else None)


def archived_images(archive: Path) -> set[tuple[str, str]]:
    """Name and digest of each image in an OCI archive; empty where the archive is of another kind."""
    try:
        with tarfile.open(archive) as tar:
            index = json.load(_member(tar, "index.json"))
    except KeyError:
        return set()  # a `docker save` of old: containerd reads it, but its digest is known only after that
    except (OSError, tarfile.TarError) as error:
        msg = f"{archive} can't be read as an image archive: {error}"
        raise ClusterError(msg) from error
    return {(_name(entry), entry["digest"]) for entry in index["manifests"]}


def write_archive(archive: Path, name: str, files: Mapping[str, bytes], entrypoint: Sequence[str]) -> None:
    """Write an OCI archive of one layer that holds the given programs; complete or absent."""
    layer = _layer(files)
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin:/"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs = [layer, _json(config)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, blobs[1]),
        "layers": [_descriptor(_LAYER, layer)],
    }
    blobs.append(_json(manifest))
    entry = _descriptor(_MANIFEST, blobs[2]) | {"annotations": dict.fromkeys(_NAME_KEYS, name)}
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}
    members = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    members |= {f"blobs/sha256/{_digest(blob).partition(':')[2]}": blob for blob in blobs}
    partial = archive.with_name(f".{archive.name}.{os.getpid()}")
    partial.write_bytes(_tar(members, mode=0o644))
    partial.rename(archive)


def _layer(files: Mapping[str, bytes]) -> bytes:
    return _tar(files, mode=0o755)


def _tar(files: Mapping[str, bytes], *, mode: int) -> bytes:
    """The same files always make the same bytes, hence the same digest."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    found = tar.extractfile(name)
    if found is None:
        raise KeyError(name)
    return found


def _name(entry: Mapping[str, Any]) -> str:
    annotations = entry.get("annotations", {})
    return next((annotations[key] for key in _NAME_KEYS if key in annotations), "")
