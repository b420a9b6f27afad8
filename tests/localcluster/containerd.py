"""What a running containerd is asked for: its images. `images.py` asks the nodes', `store.py` one without a node."""

import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localcluster.archives import copy_archive
from localcluster.errors import ClusterError
from localcluster.processes import run


@dataclass(frozen=True)
class Containerd:
    """How its `ctr` is called, and the folder of its content and snapshots."""

    ctr: Sequence[str]
    root: Path

    def images(self) -> set[tuple[str, str]]:
        """Name and digest of each."""
        return parse_images(run([*self._ctr, "images", "list"]))

    def add(self, archive: Path) -> None:
        """Import an archive, without the blobs that are there already.

        Through a pipe: the archive may lie in a folder that containerd's mount namespace hides.

        Raises:
            ClusterError: containerd refused it.
        """
        blobs = self.root / "io.containerd.content.v1.content" / "blobs" / "sha256"
        present = {blob.name for blob in blobs.iterdir()} if blobs.is_dir() else set()
        command = [*self._ctr, "images", "import", "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ctr:
            assert ctr.stdin
            assert ctr.stdout
            with suppress(BrokenPipeError), ctr.stdin as pipe:  # where it ended early, what it printed says why
                copy_archive(archive, pipe, present)
            said = ctr.stdout.read().decode(errors="replace").strip()
        if ctr.returncode:
            msg = f"containerd doesn't take {archive}: {said}"
            raise ClusterError(msg)

    def remove(self, names: Iterable[str]) -> None:
        """Forget images; their layers go where no other image has them."""
        if gone := sorted(names):
            run([*self._ctr, "images", "remove", "--sync", *gone])

    @property
    def _ctr(self) -> list[str]:
        return [*self.ctr, "--namespace", "k8s.io"]


def parse_images(table: str) -> set[tuple[str, str]]:
    """Name and digest of each line of `ctr images list`: its columns are REF, TYPE, DIGEST, ..."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {(row[0], row[2]) for row in rows if len(row) > 2}
