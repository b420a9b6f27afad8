"""Steps, what each waits for, and how they are run. Called by the two recipes; knows nothing of what the steps do."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

TAIL_LINES: Final = 60


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command and the steps it waits for."""

    name: str
    command: Sequence[str]
    after: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    """Begins when these have ended, well or not: they would only take the processor from each other."""
    env: Mapping[str, str] = field(default_factory=dict)
    live: bool = False
    """Its output goes to the terminal (one at a time, please), not to a log."""
    always: bool = False
    """Runs even if an earlier step failed: cleaning up."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a step ended."""

    name: str
    code: int
    started: float
    seconds: float
    log: Path | None

    @property
    def skipped(self) -> bool:
        """It never ran, because a step it waits for failed."""
        return self.code == SKIPPED


SKIPPED: Final = -1000


class Runner:
    """Runs a graph of steps; prints one line when a step starts and one when it ends."""

    def __init__(self, steps: Sequence[Step], logs: Path, out: TextIO = sys.stderr) -> None:
        self.steps = {step.name: step for step in steps}
        self.logs = logs
        self.out = out
        self.began = time.monotonic()
        self._tasks: dict[str, asyncio.Task[Result]] = {}
        unknown = {name for step in steps for name in (*step.after, *step.behind)} - set(self.steps)
        if unknown:
            raise ValueError(f"steps wait for unknown steps: {', '.join(sorted(unknown))}")

    async def run(self) -> list[Result]:
        """Run everything; a failed step stops only what waits for it.

        Raises:
            asyncio.CancelledError: this process was told to stop (SIGTERM, Ctrl-C), and with it all that it started.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        for name in self.steps:
            self._tasks[name] = asyncio.create_task(self._run_step(self.steps[name]))
        everything = asyncio.gather(*self._tasks.values())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, everything.cancel)
        return await everything

    async def _run_step(self, step: Step) -> Result:
        await asyncio.sleep(0)  # lets `run` register every task first
        before = [await self._tasks[name] for name in step.after]
        for name in step.behind:
            await self._tasks[name]
        started = time.monotonic()
        if any(result.code for result in before) and not step.always:
            return Result(name=step.name, code=SKIPPED, started=started - self.began, seconds=0.0, log=None)
        log = None if step.live else self.logs / f"{step.name}.log"
        self._say(f"▶ {step.name}")
        code = await self._execute(step, log)
        seconds = time.monotonic() - started
        self._say(f"{'✔' if code == 0 else '✘'} {step.name} {seconds:.1f} s")
        if code and log:
            self._say(f"  exit code {code}; the end of {log}:\n{tail(log)}")
        return Result(name=step.name, code=code, started=started - self.began, seconds=seconds, log=log)

    async def _execute(self, step: Step, log: Path | None) -> int:
        env = {**os.environ, **step.env}
        if log is None:
            return await _ended(await asyncio.create_subprocess_exec(*step.command, env=env, start_new_session=True))
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *step.command,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            return await _ended(process)

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", file=self.out, flush=True)


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Its exit code. It leads a session: all that it started goes with it when this process is told to stop."""
    try:
        return await process.wait()
    except asyncio.CancelledError:
        os.killpg(process.pid, signal.SIGTERM)
        await process.wait()
        raise


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The end of a log, indented."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    return "\n".join(f"  | {line}" for line in text)


def table(results: Sequence[Result], describe: Callable[[Result], str] = lambda _: "") -> str:
    """The timing table: when each step started, how long it took, how it ended."""
    width = max(len(result.name) for result in results)
    rows = [f"{'step':<{width}}  {'start':>8}  {'took':>8}  result"]
    for result in results:
        ended = "skipped" if result.skipped else "ok" if result.code == 0 else f"failed ({result.code})"
        note = describe(result)
        rows.append(f"{result.name:<{width}}  {result.started:7.1f}s  {result.seconds:7.1f}s  {ended}  {note}".rstrip())
    return "\n".join(rows)


_COUNT: Final = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed)")


def counts(log: Path | None) -> dict[str, int]:
    """What pytest's closing line counted; nothing for a log without one."""
    if log is None or not log.exists():
        return {}
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    closing = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|errors?).* in ", line)), "")
    return {kind.removesuffix("s") if kind == "errors" else kind: int(n) for n, kind in _COUNT.findall(closing)}


def failures(log: Path | None) -> list[str]:
    """What pytest's summary said of each test that didn't pass, a line each."""
    if log is None or not log.exists():
        return []
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if re.match(r"(FAILED|ERROR) \S+::", line)]
