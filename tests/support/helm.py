"""The real helm, for tests that render the chart and need no cluster."""

import os
import shutil
import subprocess
from pathlib import Path

from localcluster.config import cache_folder

CHART = Path(__file__).parents[2] / "charts" / "bert-operator"


def find() -> str | None:
    """Helm from PATH, else the one that `python -m localcluster build-binaries` built; never starts that build."""
    search = [os.environ.get("PATH", os.defpath), *map(str, (cache_folder() / "bin").glob("[0-9a-f]*"))]
    return shutil.which("helm", path=os.pathsep.join(search))


def run(helm: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run it; the caller looks at its returncode and at what it printed."""
    return subprocess.run([helm, *arguments], capture_output=True, text=True, check=False, timeout=300)
