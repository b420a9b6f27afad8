"""The images that new nodes start with, unpacked once.

Importing an image writes and hashes every file of it: minutes for all that the end-to-end tests run. So a containerd
without a node unpacks archives into one folder of the cache (`keep`), and a new node's store is made of hard links to
the files there (`seed`), in seconds and without disk space. containerd never changes a layer or a blob in place; its
databases it does, so a node gets copies of those.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from localcluster.archives import archived_images, pause_archive
from localcluster.containerd import Containerd
from localcluster.errors import ClusterError, tail
from localcluster.locks import locked
from localcluster.processes import program, run
from localcluster.progress import step
from localcluster.waiting import wait_until

_ANSWER_SECONDS = 60


def keep(cache: Path, archives: Sequence[Path]) -> None:
    """Unpack what is in OCI archives for the nodes of later clusters; of an image's name the newest alone is kept."""
    folder = _folder(cache)
    with _only_command_for(folder):
        kept = _kept(folder)
        missing = [archive for archive in (pause_archive(cache), *archives) if not _has(kept, archive)]
        if not missing:
            return
        with _containerd(folder) as containerd:
            for archive in missing:
                step(f"unpacking {archive.name} for new nodes")
                containerd.add(archive)
            named = {name for archive in missing for name, _ in archived_images(archive)}
            containerd.remove(outdated({name for name, _ in containerd.images()}, named))
            (folder / "kept.json").write_text(json.dumps(sorted(containerd.images())))


def seed(cache: Path, root: Path) -> None:
    """Give a node that has no store yet everything that is kept; `root` is its containerd's folder."""
    folder = _folder(cache)
    with _only_command_for(folder):
        if not _kept(folder):
            return
        run([program("cp"), "--archive", "--link", str(folder / "root"), str(root)])
        for database in sorted((folder / "root").glob("*/*.db")):
            own = root / database.relative_to(folder / "root")
            own.unlink()
            own.write_bytes(database.read_bytes())


def outdated(names: set[str], newest: set[str]) -> set[str]:
    """Of the images named REPOSITORY:TAG those whose repository has a newest one, which they aren't."""
    repositories = {name.rpartition(":")[0] for name in newest}
    return {name for name in names - newest if name.rpartition(":")[0] in repositories}


def _folder(cache: Path) -> Path:
    return cache / "node-images"


@contextmanager
def _only_command_for(folder: Path) -> Iterator[None]:
    with locked(folder / "lock", "the images of new nodes"):
        yield


def _kept(folder: Path) -> set[tuple[str, str]]:
    """Name and digest of each image; none where nothing was ever kept."""
    record = folder / "kept.json"
    return {(name, digest) for name, digest in json.loads(record.read_text())} if record.exists() else set()


def _has(kept: set[tuple[str, str]], archive: Path) -> bool:
    images = archived_images(archive)
    return bool(images) and images <= kept


@contextmanager
def _containerd(folder: Path) -> Iterator[Containerd]:
    """One that runs as long as the caller looks at it, even if this process is killed meanwhile."""
    log = folder / "containerd.log"
    with tempfile.TemporaryDirectory(prefix="containerd-") as state:
        socket = Path(state, "sock")
        configuration = Path(state, "config.toml")
        configuration.write_text(_configuration(folder / "root", Path(state)))
        own_mounts = [program("unshare"), "--mount", "--propagation", "private"]
        command = [program("setpriv"), "--pdeathsig", "KILL", *own_mounts, program("containerd")]
        with log.open("wb") as out:
            process = subprocess.Popen([*command, "--config", str(configuration)], stdout=out, stderr=out)
        try:
            containerd = Containerd([program("ctr"), "--address", str(socket)], folder / "root")
            _wait_until_it_answers(process, containerd, log)
            yield containerd
        finally:
            process.terminate()
            process.wait()


def _configuration(root: Path, state: Path) -> str:
    return f"""version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{state / "sock"}"
[ttrpc]
  address = "{state / "ttrpc"}"
"""


def _wait_until_it_answers(process: subprocess.Popen[bytes], containerd: Containerd, log: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            msg = f"containerd ended; if {containerd.root} is damaged, remove it; {tail(log)}"
            raise ClusterError(msg)
        try:
            containerd.images()
        except ClusterError:
            return False
        return True

    wait_until(answers, seconds=_ANSWER_SECONDS, what="containerd of the kept images", evidence=lambda: tail(log))
