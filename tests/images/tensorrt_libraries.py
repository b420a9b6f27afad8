"""Gets the real TensorRT for the tests in tests/tensorrt: 1.1 GB, so only `make tensorrt-api` asks for it.

Its Python bindings come from PyPI, its libraries from the Maven artifacts of org.bytedeco, which redistribute NVIDIA's.
They go into the cache folder and nowhere else: nothing of NVIDIA's gets into our images.
"""

import hashlib
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from images.cache import Cache
from images.commands import run
from images.errors import ImagesError
from images.progress import step


@dataclass(frozen=True)
class Release:
    """One TensorRT: bindings and libraries of the same version."""

    bindings: str
    artifact: str
    sha256: str
    """Of the jar with the libraries."""


RELEASES: Final = {
    "10": Release(
        "tensorrt-cu12-bindings==10.15.1.29",
        "org.bytedeco:tensorrt:10.15-1.5.13:jar:linux-x86_64-redist",
        "8543a6bda95c5d42141d409e1b74024b444e96334a3815d53997cc4ec3cfce83",
    ),
    "11": Release(
        "tensorrt-cu13-bindings==11.2.1.2",
        "org.bytedeco:tensorrt:11.2-1.5.14:jar:linux-x86_64-redist",
        "909dea6c768a0db60ab53d76d9f089c78cada1b55ad5d3d78b308b140f669f6d",
    ),
}


def fetch(cache: Cache) -> Path:
    """The folder that BERTOPS_TENSORRT names: 10/ and 11/, each with tensorrt_bindings/ and lib/."""
    top = cache.folder("tensorrt")
    for name, release in RELEASES.items():
        with cache.lock(f"tensorrt-{name}"):
            if not (top / name).exists():
                step(f"tensorrt {name}: fetching {release.artifact}")
                with TemporaryDirectory(dir=cache.folder("tmp")) as folder:
                    _bindings(release, Path(folder))
                    _libraries(release, Path(folder))
                    Path(folder, "made").rename(top / name)
    return top


def _bindings(release: Release, folder: Path) -> None:
    wheels = folder / "wheels"
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels)]
    run([sys.executable, "-m", "pip", "download", *options, release.bindings], what=f"getting {release.bindings}")
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "made")


def _libraries(release: Release, folder: Path) -> None:
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
    target = [f"-Dartifact={release.artifact}", f"-DoutputDirectory={folder / 'jar'}"]
    run(["mvn", "-q", "-B", goal, *target], what=f"getting {release.artifact}")
    (jar,) = (folder / "jar").glob("*.jar")
    with jar.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != release.sha256:
        raise ImagesError(f"{release.artifact} has sha256 {found}, expected {release.sha256}")
    libraries = folder / "made" / "lib"
    libraries.mkdir(parents=True)
    with zipfile.ZipFile(jar) as archive:
        for entry in archive.infolist():
            if ".so" in entry.filename:
                with archive.open(entry) as source, (libraries / Path(entry.filename).name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)


if __name__ == "__main__":
    try:
        print(fetch(Cache.from_environment()))
    except ImagesError as error:
        sys.exit(str(error))
