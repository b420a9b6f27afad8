"""One cgroup per cluster under every hierarchy: it holds all of its processes, so that none is missed when it goes.

    lc_NAME/components    what this package starts, and whatever that leaves behind (containerd's shims)
    lc_NAME/nodeN         a kubelet's root; its pods are below

`processes.py` and `node.py` make and fill them, `cluster.py` ends them. Works on cgroup v1 and on the hybrid of v1 and
v2; the branch for a machine with v2 alone follows the kernel's documentation and has not been run.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from localcluster.config import cgroup_name
from localcluster.errors import ClusterError
from localcluster.waiting import wait_until

_ROOT = Path("/sys/fs/cgroup")
_V2_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
_KILL_SECONDS = 30
_SHARES = {"cpu.shares": "10240", "cpu.weight": "1000"}
"""Of the processor, under v1 and v2: ten processes' worth. By default all pods of a cluster together count as one."""


def is_unified() -> bool:
    """Whether this machine has cgroup v2 alone."""
    return (_ROOT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """The root of each cgroup hierarchy."""
    return [_ROOT] if is_unified() else sorted({path.resolve() for path in _ROOT.iterdir() if path.is_dir()})


def tracking_hierarchy() -> Path:
    """The hierarchy in which every process of a cluster is found."""
    return _ROOT if is_unified() else _ROOT / "pids"


def make(cluster: str, child: str) -> str:
    """Make `child` in the cluster's cgroup in all hierarchies; returns its name as a kubelet's cgroupRoot."""
    try:
        for root in hierarchies():
            _make_below(root, cluster, child)
    except OSError as error:
        msg = f"this machine's cgroups can't be changed ({error}): a container needs --privileged to hold a cluster"
        raise ClusterError(msg) from error
    return f"/{cgroup_name(cluster)}/{child}"


def _make_below(root: Path, cluster: str, child: str) -> None:
    for group in (root / cgroup_name(cluster), root / cgroup_name(cluster) / child):
        group.mkdir(exist_ok=True)
        if is_unified():
            _delegate(group.parent)
        elif (group / "cpuset.cpus").exists():
            _inherit_cpuset(group)
    _take_share(root / cgroup_name(cluster))


def _take_share(group: Path) -> None:
    for file, share in _SHARES.items():
        if (group / file).exists():
            (group / file).write_text(share)


def components_group(cluster: str) -> Path:
    """The file that moves a process to where this package's own processes are."""
    return tracking_hierarchy() / cgroup_name(cluster) / "components" / "cgroup.procs"


def exists(cluster: str) -> bool:
    """Whether anything of the cluster may be running."""
    return any(_groups(cluster))


def kill_all(cluster: str) -> None:
    """End every process of the cluster, pods included. Killed at once: its data goes with it."""
    wait_until(
        lambda: not _kill_once(cluster),
        seconds=_KILL_SECONDS,
        what=f"the end of cluster {cluster}'s processes",
        evidence=lambda: f"still there: {sorted(_processes(cluster))}",
    )


def remove(cluster: str) -> None:
    """Remove the cluster's cgroups, which must be empty of processes."""
    wait_until(
        lambda: not _remove_once(cluster),
        seconds=_KILL_SECONDS,
        what=f"the removal of cluster {cluster}'s cgroups",
        evidence=lambda: f"still there: {[str(group) for group in _groups(cluster)]}",
    )


def _kill_once(cluster: str) -> bool:
    found = _processes(cluster)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # ended by itself meanwhile
    _reap(found)
    return bool(found)


def _reap(pids: set[int]) -> None:
    """Collect those that this very command started: a zombie stays in its cgroup's list."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue  # another process's child


def _processes(cluster: str) -> set[int]:
    found: set[int] = set()
    for directory, _, files in os.walk(tracking_hierarchy() / cgroup_name(cluster)):
        if "cgroup.procs" in files:
            found.update(_members(Path(directory) / "cgroup.procs"))
    return found - {0}  # 0: a process of another pid namespace, which this one can't end


def _members(procs: Path) -> set[int]:
    try:
        return {int(line) for line in procs.read_text().split()}
    except OSError:
        return set()  # the group went away between listing and reading, or is threaded


def _groups(cluster: str) -> Iterator[Path]:
    tops = (root / cgroup_name(cluster) for root in hierarchies())
    return (top for top in tops if top.is_dir())


def _remove_once(cluster: str) -> bool:
    """Remove what is empty; returns whether anything is left."""
    for top in _groups(cluster):
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                Path(directory).rmdir()
            except OSError:
                break  # still busy: the kernel frees it shortly after the last process
    return exists(cluster)


def _inherit_cpuset(group: Path) -> None:
    """A new v1 cpuset has neither processors nor memory, and no process can join it."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        value = (group.parent / file).read_text().strip()
        if not value:
            msg = f"{group.parent / file} is empty: this machine's cpuset hierarchy can't hold a node"
            raise ClusterError(msg)
        (group / file).write_text(value)


def _delegate(parent: Path) -> None:
    available = (parent / "cgroup.controllers").read_text().split()
    wanted = [f"+{name}" for name in _V2_CONTROLLERS if name in available]
    (parent / "cgroup.subtree_control").write_text(" ".join(wanted))
