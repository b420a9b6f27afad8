"""Starts a cluster's processes, remembers them, and says which still run.

Each one runs in the cluster's cgroup with a log of its own. Ending them is `cgroups.kill_all`'s work: a record can be
stale, membership of a cgroup can't.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from localcluster import cgroups
from localcluster.config import Folders
from localcluster.errors import ClusterError, tail
from localcluster.waiting import wait_until

_GO = {"GOGC": "400"}
"""All are Go programs of a few hundred MB at most: what they save by collecting garbage seldom is the processor's."""
# Joins the cgroup before it becomes the component, so that nothing it starts can be outside.
_JOIN_AND_BECOME = 'echo $$ > "$0" && exec "$@"'


@dataclass(frozen=True)
class Component:
    """A process to start."""

    name: str
    command: Sequence[str]
    health: str = ""  # a URL that answers 200 when it is healthy; empty: running is all that can be asked


@dataclass(frozen=True)
class Process:
    """A process that was started; the start time tells it from a later one with the same number."""

    name: str
    pid: int
    started: int
    health: str

    @property
    def is_running(self) -> bool:
        """Whether this very process still runs."""
        return _start_time(self.pid) == self.started


def start(folders: Folders, component: Component) -> Process:
    """Start a component, in a session of its own: it outlives this command and its terminal."""
    folders.logs.mkdir(parents=True, exist_ok=True)
    folders.processes.mkdir(parents=True, exist_ok=True)
    group = cgroups.components_group(folders.name)
    with log_of(folders, component.name).open("ab") as log:
        child = subprocess.Popen(
            ["/bin/sh", "-c", _JOIN_AND_BECOME, str(group), *component.command],
            cwd="/",
            env={**os.environ, **_GO},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process = Process(component.name, child.pid, _start_time(child.pid) or 0, component.health)
    (folders.processes / f"{component.name}.json").write_text(json.dumps(asdict(process)))
    return process


def recorded(folders: Folders) -> list[Process]:
    """Every process that was started for the cluster, whether or not it still runs."""
    return [Process(**json.loads(path.read_text())) for path in sorted(folders.processes.glob("*.json"))]


def log_of(folders: Folders, name: str) -> Path:
    """A component's log."""
    return folders.logs / f"{name}.log"


def wait_for(folders: Folders, process: Process, is_true: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait for something that one process brings about: its end ends the waiting, its log is the evidence."""
    log = log_of(folders, process.name)

    def reached() -> bool:
        if is_true():
            return True
        if not process.is_running:
            msg = f"{process.name} ended while waiting for {what}; {tail(log)}"
            raise ClusterError(msg)
        return False

    wait_until(reached, seconds=seconds, what=what, evidence=lambda: tail(log))


def run(command: Sequence[str], *, stdin: Path | None = None) -> str:
    """Run a short command to its end and return what it printed; its failure is the user's to read."""
    with (stdin or Path("/dev/null")).open("rb") as source:
        done = subprocess.run(command, check=False, stdin=source, capture_output=True, text=True)
    if done.returncode != 0:
        msg = f"`{' '.join(command)}` failed ({done.returncode}): {(done.stderr or done.stdout).strip()}"
        raise ClusterError(msg)
    return done.stdout


def program(name: str) -> str:
    """The absolute path of a program of the machine."""
    found = shutil.which(name)
    if found is None:
        msg = f"{name} is not on PATH"
        raise ClusterError(msg)
    return found


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it has ended, collected or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return parse_start_time(stat)


def parse_start_time(stat: str) -> int | None:
    """Field 22 of /proc/PID/stat; None for a zombie. The name, field 2, may hold spaces and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
