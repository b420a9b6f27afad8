"""How many processors this container may use, and libraries that would take all of the node's. Called by steps.

A library that starts a thread for each of the node's processors spends a small container's share on waiting: OpenBLAS
takes ten times the processor's time for short texts that way. So each product has one thread, and whoever has several
requests to answer has one for each processor.
"""

import math
import os
from pathlib import Path
from typing import Final

from bert_build import memory

_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def one_thread_each() -> None:
    """Let linear algebra run in the thread that asks for it. Read by the libraries when they are loaded."""
    for name in _VARIABLES:
        os.environ.setdefault(name, "1")


def count(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Processors of this container, at least one. Understands cgroup v1 and v2; a started one counts whole."""
    shares = [share for folder in memory.folders(root, membership, "cpu") if (share := _share(folder)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, shares)]))


def _share(folder: Path) -> float | None:
    """Processors that a cgroup may use, None if it may use all."""
    told = " ".join(memory.lines(folder / "cpu.max")) or " ".join(
        line for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for line in memory.lines(folder / name)
    )
    quota, _, period = told.partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None
