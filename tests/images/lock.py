"""Turns what we ask for into hashed requirements files. `make lock` calls it through `__main__`; nothing else does.

It never writes an index, a mirror or a machine's path into a lock: those come from the environment (pip's and uv's own
variables and configuration) of whoever locks or installs. A lock's first lines carry the hash of what it was made from,
so that a unit test sees, without a network, when somebody changed the one and forgot the other.
"""

import hashlib
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from images.cache import Cache
from images.catalog import TOP
from images.commands import run
from images.progress import step

UV_VERSION: Final = "0.13.9"
_TRIXIE: Final = ("x86_64-manylinux_2_40", "aarch64-manylinux_2_40")
_BOOKWORM: Final = ("x86_64-manylinux_2_36", "aarch64-manylinux_2_36")
_UBUNTU: Final = ("x86_64-manylinux_2_39", "aarch64-manylinux_2_39")
_OLDEST_MAC: Final = "14.0"
_DEVELOPERS: Final = (*_BOOKWORM, "aarch64-apple-darwin")


@dataclass(frozen=True)
class Lock:
    """One requirements file: what goes in and for which machines its wheels must exist."""

    output: str
    source: str
    """A .in file, or pyproject.toml: its dependencies."""
    pythons: tuple[str, ...]
    """The first decides the versions; the wheels of all are accepted."""
    platforms: tuple[str, ...]
    extras: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    """Locks above this one in LOCKS whose versions it takes over, because both are installed side by side."""
    alone: tuple[str, ...] = ()
    """Packages of the source taken without what they ask for."""


LOCKS: Final = (
    Lock("operator/requirements.txt", "pyproject.toml", ("3.13",), _TRIXIE),
    Lock("build_jobs/pytorch-requirements.txt", "build_jobs/pytorch-requirements.in", ("3.13",), _TRIXIE),
    # NVIDIA's PyTorch images have Ubuntu 24.04's Python.
    Lock("build_jobs/pytorch-gpu-requirements.txt", "build_jobs/pytorch-requirements.in", ("3.12",), _UBUNTU),
    Lock(
        "build_jobs/torchserve-requirements.txt",
        "build_jobs/torchserve-requirements.in",
        ("3.13",),
        _TRIXIE,
        constraints=("build_jobs/pytorch-requirements.txt",),
        alone=("torchserve", "tokenizers"),
    ),
    Lock(
        "build_jobs/triton-cpu-requirements.txt",
        "build_jobs/triton-cpu-requirements.in",
        ("3.11",),
        _BOOKWORM,
        alone=("nvidia-pytriton",),
    ),
    Lock(
        "build_jobs/triton-cpu-torch-requirements.txt",
        "build_jobs/triton-cpu-torch-requirements.in",
        ("3.13",),
        _TRIXIE,
        alone=("nvidia-pytriton",),
    ),
    Lock(
        "build_jobs/tensorflow-requirements.txt",
        "build_jobs/tensorflow-requirements.in",
        ("3.13",),
        _TRIXIE[:1],
        alone=("tensorflow-cpu", "tensorflow-serving-api"),
    ),
    Lock(
        "build_jobs/analyzer-requirements.txt",
        "build_jobs/analyzer-requirements.in",
        ("3.13",),
        _TRIXIE[:1],  # perf_analyzer is a program for x86_64 alone
        alone=("triton-model-analyzer",),
    ),
    Lock(
        "tests/bench/build-tool.txt",
        "tests/bench/build-tool.in",
        ("3.13",),
        _TRIXIE[:1],
        alone=("optimum", "optimum-onnx"),  # both ask for torch, which is the build image's own
    ),
    Lock("tests/bench/plots.txt", "tests/bench/plots.in", ("3.11", "3.12", "3.13"), _DEVELOPERS),
    Lock("tests/requirements.txt", "pyproject.toml", ("3.11", "3.12", "3.13"), _DEVELOPERS, extras=("demo", "dev")),
    Lock(
        "tests/images/test-tools.txt",
        "tests/images/test-tools.in",
        ("3.13",),
        _TRIXIE,
        constraints=("tests/requirements.txt", "build_jobs/pytorch-requirements.txt"),
    ),
)


def requirements(lock: Lock, top: Path = TOP) -> list[str]:
    """What the lock is made from: one requirement each, comments gone."""
    if lock.source.endswith(".in"):
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in (top / lock.source).read_text().splitlines())
        return sorted(line for line in lines if line)
    project = tomllib.loads((top / lock.source).read_text())["project"]
    extras = (requirement for extra in lock.extras for requirement in project["optional-dependencies"][extra])
    return sorted([*project["dependencies"], *extras])


def fingerprint(lock: Lock, top: Path = TOP) -> str:
    """Changes when the lock must be made anew."""
    asked = [*requirements(lock, top), *lock.pythons, *lock.platforms, *lock.alone]
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:12]


def write_all(cache: Cache, top: Path = TOP) -> None:
    """Write every lock anew, with the newest versions that fit."""
    uv = _uv(cache)
    for lock in LOCKS:
        step(f"locking {lock.output}")
        packages = _resolve(uv, lock, top)
        (top / lock.output).write_text(render(lock, fingerprint(lock, top), packages))


def render(lock: Lock, fingerprint: str, packages: Mapping[str, "Package"]) -> str:
    """The text of a requirements file."""
    head = [
        f"# Made by `make lock` from {lock.source} for Python {', '.join(lock.pythons)}. Don't edit.",
        f"# inputs: {fingerprint}",
    ]
    body = [line for name in sorted(packages) for line in packages[name].lines(name)]
    return "\n".join([*head, *body]) + "\n"


@dataclass(frozen=True)
class Package:
    """One package of a lock."""

    version: str
    marker: str
    hashes: frozenset[str]

    def lines(self, name: str) -> list[str]:
        """Its part of a requirements file."""
        pin = f"{name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        lines = [pin, *(f"    --hash=sha256:{digest}" for digest in sorted(self.hashes))]
        return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def read_pylock(text: str) -> dict[str, Package]:
    """The packages of a pylock.toml: its wheels' hashes, its URLs left behind."""
    found: list[dict[str, Any]] = tomllib.loads(text).get("packages", [])
    return {
        package["name"]: Package(
            version=package["version"],
            marker=package.get("marker", ""),
            hashes=frozenset(wheel["hashes"]["sha256"] for wheel in package.get("wheels", [])),
        )
        for package in found
    }


def merge(first: Mapping[str, Package], other: Mapping[str, Package]) -> dict[str, Package]:
    """The first's packages, with the hashes that the other has for them; the other's own packages are added."""
    merged = dict(first)
    for name, package in other.items():
        known = merged.get(name, package)
        merged[name] = Package(known.version, known.marker, known.hashes | package.hashes)
    return merged


def _resolve(uv: Path, lock: Lock, top: Path) -> dict[str, Package]:
    packages: dict[str, Package] = {}
    for python in lock.pythons:
        for platform in lock.platforms:
            packages = merge(packages, _resolve_one(uv, lock, top, (python, platform, packages)))
    return packages


def _resolve_one(uv: Path, lock: Lock, top: Path, target: tuple[str, str, Mapping[str, Package]]) -> dict[str, Package]:
    """What one Python on one platform needs; versions found for the targets before stay."""
    python, platform, known = target
    asked = requirements(lock, top)
    alone = [line for line in asked if _name(line) in lock.alone]
    pins = [f"{name}=={package.version}" for name, package in known.items()]
    for constraint in lock.constraints:
        pins += re.findall(r"^[\w.-]+==[\w.]+", (top / constraint).read_text(), re.MULTILINE)
    options = [f"--python-version={python}", f"--python-platform={platform}"]
    packages = _compile(uv, [line for line in asked if line not in alone], options, pins)
    return {**packages, **(_compile(uv, alone, [*options, "--no-deps"], pins) if alone else {})}


def _compile(uv: Path, asked: Sequence[str], options: Sequence[str], pins: Sequence[str]) -> dict[str, Package]:
    with TemporaryDirectory() as folder:
        source, constraints, output = (Path(folder, name) for name in ("in.txt", "constraints.txt", "pylock.toml"))
        source.write_text("\n".join(asked))
        constraints.write_text("\n".join(pins))
        command = [
            str(uv),
            "pip",
            "compile",
            "-q",
            "--no-build",
            *options,
            f"--constraints={constraints}",
            f"-o={output}",
            str(source),
        ]
        run(command, what="uv pip compile", environment=_access())
        return read_pylock(output.read_text())


def _name(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]


def _access(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """pip's way to its index, told to uv."""
    pairs = (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_CERT", "SSL_CERT_FILE"))
    told = {
        theirs: environment[ours] for ours, theirs in pairs if environment.get(ours) and not environment.get(theirs)
    }
    return {"MACOSX_DEPLOYMENT_TARGET": _OLDEST_MAC, **told}


def _uv(cache: Cache) -> Path:
    """The version of uv that every lock is made with, installed into the cache once."""
    folder = cache.folder("tools", f"uv-{UV_VERSION}")
    program = folder / "bin" / "uv"
    if not program.exists():
        step(f"installing uv {UV_VERSION} into the cache")
        run(
            [sys.executable, "-m", "pip", "install", "-q", f"--target={folder}", f"uv=={UV_VERSION}"],
            what="installing uv",
        )
    return program
