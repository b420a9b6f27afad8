"""Builds and runs images with Docker, which pulls the public bases itself. `engine` picks it where a daemon answers."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from images.cache import Cache
from images.catalog import Image
from images.commands import run
from images.job import Job
from images.packaging_access import build_arguments


@dataclass(frozen=True)
class Docker:
    """The local Docker engine."""

    cache: Cache

    def has(self, tag: str) -> bool:
        """Is that image in the engine's store?"""
        return subprocess.run(["docker", "image", "inspect", tag], check=False, capture_output=True).returncode == 0

    def prepare_base(self, base: str) -> None:
        """Nothing to do: the build pulls it."""

    def build(self, image: Image, top: Path) -> None:
        """Build and tag it."""
        command = [
            "docker",
            "build",
            *build_arguments(),
            *image.build_arguments,
            "-f",
            str(top / image.dockerfile),
            "-t",
            image.tag,
            "-t",
            image.toolchain_tag,
            str(top),
        ]
        run(command, what=f"building {image.name}", environment={"DOCKER_BUILDKIT": "1"}, log=self._log(image))

    def save(self, image: Image, archive: Path) -> None:
        """Write it as an archive that containerd imports under its tag."""
        run(["docker", "save", "-o", str(archive), image.tag], what=f"saving {image.name}")

    def run(self, image: Image, job: Job) -> int:
        """Run the job in a container of its own; its exit status."""
        mounts = [f"--volume={folder}:{inside}:ro" for folder, inside in job.mounts.items()]
        mounts += [f"--volume={folder}:{inside}" for folder, inside in job.kept.items()]
        variables = [f"--env={name}={value}" for name, value in job.environment.items()]
        command = [
            "docker",
            "run",
            "--rm",
            *mounts,
            *variables,
            f"--workdir={job.folder}",
            image.toolchain_tag,
            *job.command,
        ]
        return subprocess.run(command, check=False).returncode

    def _log(self, image: Image) -> Path:
        return self.cache.folder("logs") / f"build-{image.name}.log"
