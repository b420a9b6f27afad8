"""Which engine builds here: Docker where one answers, else buildah. BERTOPS_ENGINE chooses by hand.

`build` and `run` call it.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from images.buildah import PROGRAMS, Buildah
from images.cache import Cache
from images.catalog import Image
from images.commands import missing
from images.docker import Docker
from images.errors import ImagesError
from images.job import Job

_ANSWER_SECONDS: Final = 10


class Engine(Protocol):
    """What the two have in common."""

    def has(self, tag: str) -> bool:
        """Is that image in the engine's store?"""

    def prepare_base(self, base: str) -> None:
        """Make sure that a Dockerfile can start from it."""

    def build(self, image: Image, top: Path) -> None:
        """Build and tag it."""

    def save(self, image: Image, archive: Path) -> None:
        """Write it as an archive that containerd imports under its tag."""

    def run(self, image: Image, job: Job) -> int:
        """Run the job in a container of its own, output passed through; its exit status."""


def choose(cache: Cache, environment: Mapping[str, str] = os.environ) -> Engine:
    """The engine to use on this machine."""
    match environment.get("BERTOPS_ENGINE", ""):
        case "docker":
            return Docker(cache)
        case "buildah":
            return Buildah(cache)
        case "":
            return Docker(cache) if docker_answers() else Buildah(cache)
        case other:
            raise ImagesError(f"BERTOPS_ENGINE={other}: write docker or buildah, or leave it out")


def missing_packages(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The Debian packages that this machine lacks to build images; none where Docker builds them."""
    named = environment.get("BERTOPS_ENGINE", "")
    return [] if named == "docker" or (not named and docker_answers()) else missing(PROGRAMS)


def docker_answers() -> bool:
    """Is a Docker engine running here (the client alone is not enough)?"""
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], check=False, capture_output=True, timeout=_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
