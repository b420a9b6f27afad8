"""The local cluster of the end-to-end tests."""

import os
import subprocess
import sys

from support.installation import ROOT

CLUSTER = os.environ.get("BERTOPS_E2E_CLUSTER", "e2e")
"""Two runs on one machine need two names."""


def localcluster(*arguments: str) -> str:
    """Run one of its commands; what it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "localcluster", *arguments]
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
