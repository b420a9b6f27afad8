"""Builds and runs images with buildah: no daemon, no registry, as root on a bare Debian machine. `engine` picks it.

All its storage is below the cache folder; the system's own (/var/lib/containers) is never touched.
"""

import os
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from images import catalog, debian, oci
from images.cache import Cache
from images.catalog import Image
from images.commands import require, run
from images.errors import ImagesError
from images.job import Job
from images.packaging_access import build_arguments
from images.progress import step

_KEPT: Final = 4
"""Tags of an image that stay in the storage, the present ones among them: two images with their toolchain's names."""
_STORAGE_LOCK: Final = "buildah-storage"
PROGRAMS: Final = {"buildah": "buildah", "skopeo": "skopeo", "debootstrap": "debootstrap"}
"""What it runs -> the Debian package that brings it."""


@dataclass(frozen=True)
class Buildah:
    """buildah with its storage in the cache folder."""

    cache: Cache

    def has(self, tag: str) -> bool:
        """Is that image in the storage?"""
        command = self._command("inspect", "--type", "image", tag)
        return subprocess.run(command, check=False, capture_output=True, env=self._environment()).returncode == 0

    def prepare_base(self, base: str) -> None:
        """Make the public base out of Debian packages unless that was done before."""
        suite = debian.suite_of(base)
        self._require()
        with self.cache.lock(f"base-{suite}"):
            made = f"{base}-{debian.RECIPE_HASH}"
            if self.has(made):
                return
            step(f"{base}: debootstrap")
            root = debian.make_root(suite, self.cache)
            dockerfile = self.cache.folder("bases") / f"{suite}.Dockerfile"
            dockerfile.write_text(debian.DOCKERFILE)
            self._run("bud", "-q", "-f", str(dockerfile), "-t", base, "-t", made, str(root), what=f"importing {base}")
            shutil.rmtree(root)

    def build(self, image: Image, top: Path) -> None:
        """Build and tag it."""
        self._require()
        options = ["--layers", "--pull-never", "--network=host", *build_arguments(), *image.build_arguments]
        log = self.cache.folder("logs") / f"build-{image.name}.log"
        self._run(
            "bud",
            *options,
            *("-f", str(top / image.dockerfile), "-t", image.tag, "-t", image.toolchain_tag, str(top)),
            what=f"building {image.name}",
            log=log,
        )
        self._drop_old(top)

    def _drop_old(self, top: Path) -> None:
        """Keep the newest images of each name: the others hold layers that nobody needs any more.

        Not while another command is at work: buildah fails on an image that goes while it lists them. The last one
        of several finds the storage free, and one that can't go is tried again by the next build.
        """
        with self.cache.try_lock(_STORAGE_LOCK) as alone:
            if not alone:
                return
            listed = self._quietly("images", "--noheading", "--format", "{{.Name}}:{{.Tag}}").split()
            present = [catalog.image(name, top) for name in catalog.DOCKERFILES]
            for old in old_tags(listed, {tag for image in present for tag in (image.tag, image.toolchain_tag)}):
                self._quietly("rmi", old)

    def _quietly(self, *arguments: str) -> str:
        """The output of housekeeping, whose failure is nobody's trouble now."""
        command = self._command(*arguments)
        return subprocess.run(command, check=False, capture_output=True, text=True, env=self._environment()).stdout

    def save(self, image: Image, archive: Path) -> None:
        """Write it as an archive that containerd imports under its tag; layers written before aren't written again."""
        self._require()
        layout = self.cache.folder("layouts", image.name)
        stored = f"containers-storage:[overlay@{self._storage}+{self._state}]{image.tag}"
        # buildah's own push would compress every layer anew each time: a minute instead of a second.
        options = ["--insecure-policy", "copy", "-q", "--dest-oci-accept-uncompressed-layers"]
        command = ["skopeo", *options, stored, f"oci:{layout}:{image.digest}"]
        run(command, what=f"exporting {image.name}", environment=self._environment())
        oci.write_archive(layout, image.digest, image.tag, archive)

    def run(self, image: Image, job: Job) -> int:
        """Run the job in a container of its own; its exit status."""
        self._require()
        container = self._run(
            "from", "--pull-never", image.toolchain_tag, what=f"making a container of {image.name}"
        ).strip()
        mounts = [f"--volume={folder}:{inside}:ro" for folder, inside in job.mounts.items()]
        mounts += [f"--volume={folder}:{inside}" for folder, inside in job.kept.items()]
        variables = [f"--env={name}={value}" for name, value in job.environment.items()]
        options = [*mounts, *variables, f"--workingdir={job.folder}", "--network=host"]
        try:
            command = self._command("run", *options, container, "--", *job.command)
            return subprocess.run(command, check=False, env=self._environment()).returncode
        finally:
            self._run("rm", container, what="removing the container")

    def _run(self, *arguments: str, what: str, log: Path | None = None) -> str:
        with self.cache.lock(_STORAGE_LOCK, shared=True):
            return run(self._command(*arguments), what=what, environment=self._environment(), log=log)

    def _command(self, *arguments: str) -> Sequence[str]:
        storage = [f"--root={self._storage}", f"--runroot={self._state}", "--storage-driver=overlay"]
        return ["buildah", *storage, *arguments]

    @property
    def _storage(self) -> Path:
        return self.cache.folder("buildah", "storage")

    @property
    def _state(self) -> Path:
        return self.cache.folder("buildah", "run")

    def _environment(self) -> dict[str, str]:
        # TMPDIR holds the caches of `RUN --mount=type=cache`; chroot isolation needs neither cgroups nor a runtime.
        return {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.cache.folder("buildah", "tmp"))}

    @staticmethod
    def _require() -> None:
        require(PROGRAMS, why="building images without Docker")
        if os.geteuid() != 0:
            raise ImagesError("building images without Docker needs root: run this as root, or start a Docker engine")


def old_tags(newest_first: Sequence[str], needed: Collection[str]) -> list[str]:
    """Of each of our images' names the tags beyond the newest ones, but never one that is needed."""
    ours = {tag.rpartition(":")[0] for tag in needed}
    tags: dict[str, list[str]] = {name: [] for name in ours}
    for tag in newest_first:
        tags.get(tag.rpartition(":")[0], []).append(tag)
    return [tag for found in tags.values() for tag in found[_KEPT:] if tag not in needed]
