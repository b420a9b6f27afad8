"""Runs other programs for the modules here: quietly when they succeed, with the end of their output when they don't."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from images.errors import ImagesError

_TAIL = 25


def run(
    command: Sequence[str], *, what: str, environment: Mapping[str, str] | None = None, log: Path | None = None
) -> str:
    """What the command printed; raises ImagesError with the last lines when it fails. `log` keeps all of it."""
    try:
        done = subprocess.run(
            command,
            check=False,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise ImagesError(f"{what}: the program {command[0]} isn't installed here") from error
    if log:
        log.write_text(done.stdout)
    if done.returncode != 0:
        output = done.stdout if log else f"{done.stdout}{done.stderr}"
        tail = "\n".join(f"    {line}" for line in output.splitlines()[-_TAIL:])
        where = f"\n  everything it printed: {log}" if log else ""
        raise ImagesError(f"{what} failed (exit status {done.returncode}):\n{tail}{where}")
    return done.stdout


def require(programs: Mapping[str, str], *, why: str) -> None:
    """Raise, naming the Debian packages to install, unless all programs (program -> package) are there."""
    packages = missing(programs)
    if packages:
        raise ImagesError(
            f"{why} needs programs that this machine lacks; as root: apt-get install -y {' '.join(packages)}"
        )


def missing(programs: Mapping[str, str]) -> list[str]:
    """The Debian packages of the programs (program -> package) that aren't there."""
    return sorted({package for program, package in programs.items() if shutil.which(program) is None})
