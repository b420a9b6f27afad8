"""`python3 -m stages.venv`: make the environment of the locked development tools, once per lock file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from stages.__main__ import ROOT, venv_python

COMPLETE: Final = ".complete"


def main() -> int:
    """Make it if it isn't there; a mark written last keeps an interrupted install from being taken for a whole one."""
    home = venv_python().parents[1]
    if (home / COMPLETE).exists():
        return 0
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    try:
        _make(home)
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))} failed", file=sys.stderr)
        return 1
    (home / COMPLETE).touch()
    for old in home.parent.glob("venv-*"):
        if old != home:
            shutil.rmtree(old, ignore_errors=True)
    return 0


def _make(home: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    requirements = str(ROOT / "tests" / "requirements.txt")
    subprocess.run([*pip, "-r", requirements], check=True, env={**os.environ, "PYTHONPATH": ""})


if __name__ == "__main__":
    sys.exit(main())
