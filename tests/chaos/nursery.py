"""Where operators come from: one Python that has imported everything, and forks a `kopf run` for each that is wanted.

A start by fork takes a tenth of the processor time of a cold one, and a campaign has a thousand. Each child is a
process of its own with its own command line, environment and log, and is killed like any other.
`python -m chaos.nursery` is the parent: orders come as JSON lines on its standard input, births and deaths go out on
its standard output.
"""

import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

MODULE: Final = "bert_operator.handlers"
_PR_SET_PDEATHSIG: Final = 1


@dataclass(kw_only=True)
class Child:
    """One operator process."""

    pid: int
    handle: int
    """A descriptor of the process: its number may be somebody else's after its end."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def kill(self) -> None:
        """SIGKILL."""
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)


@dataclass(kw_only=True)
class Nursery:
    """The parent, as the campaign sees it; open it with `async with`."""

    code: Path
    """Folder with the operator's package."""
    _orders: dict[int, asyncio.Future[int]] = field(default_factory=dict)
    _children: dict[int, Child] = field(default_factory=dict)
    _count: int = 0

    async def __aenter__(self) -> Self:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.code), str(Path(__file__).parents[1])])}
        self._parent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "chaos.nursery",
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        await self._parent.wait()
        await self._reader

    async def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        """Have an operator born; returns once it exists."""
        self._count += 1
        number, born = self._count, asyncio.get_running_loop().create_future()
        self._orders[number] = born
        order = {"number": number, "arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(order).encode() + b"\n")
        return self._children[await born]

    async def _read(self) -> None:
        assert self._parent.stdout is not None
        async for line in self._parent.stdout:
            told = json.loads(line)
            if "born" in told:
                self._children[told["born"]] = Child(pid=told["born"], handle=os.pidfd_open(told["born"]))
                self._orders.pop(told["number"]).set_result(told["born"])
            else:
                child = self._children.pop(told["dead"])
                child.ended.set()
                os.close(child.handle)


def _parent() -> None:
    """Import, then fork whenever told; ends with its standard input, and all children with it."""
    importlib.import_module("kopf.cli")
    importlib.import_module(MODULE)
    gc.collect()
    gc.freeze()
    waking, woken = os.pipe()
    os.set_blocking(waking, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    rest = b""
    while True:
        ready, _, _ = select.select([0, waking], [], [])
        if waking in ready:
            os.read(waking, 4096)
        _bury()
        if 0 not in ready:
            continue
        heard = os.read(0, 65536)
        if not heard:
            return
        *orders, rest = (rest + heard).split(b"\n")
        for order in orders:
            _bear(json.loads(order))


def _bear(order: Mapping[str, Any]) -> None:
    pid = os.fork()
    if pid == 0:
        _become(order)
    # The parent tells before it looks for deaths, so nobody dies before having been born.
    print(json.dumps({"born": pid, "number": order["number"]}), flush=True)


def _bury() -> None:
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            print(json.dumps({"dead": pid}), flush=True)


def _become(order: Mapping[str, Any]) -> None:
    """Be an operator from now on."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    os.environ.update(order["environment"])
    sys.argv = ["kopf", *order["arguments"]]
    try:
        runpy.run_module("kopf", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(1)


if __name__ == "__main__":
    _parent()
