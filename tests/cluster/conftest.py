"""A real API server for the tests of this folder.

`BERTOPS_TEST_KUBECONFIG` names an existing one (kind, a development cluster); kubectl and helm then come from PATH.
Without it a control plane is started on this machine by `localcluster`, and stopped after the tests unless it ran
already.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kube_api import KubeApi

NAME = "apitests"
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def api() -> Iterator[KubeApi]:
    """A real API server."""
    if given := os.environ.get("BERTOPS_TEST_KUBECONFIG"):
        with KubeApi(Path(given)) as given_api:
            yield given_api
        return
    was_up = _localcluster("status", "--name", NAME, check=False).returncode == 0
    kubeconfig = _localcluster("up", "--name", NAME, "--control-plane-only").stdout.splitlines()[-1]
    binaries = _localcluster("build-binaries").stdout.splitlines()[-1]
    try:
        with KubeApi(Path(kubeconfig), binaries=Path(binaries)) as own_api:
            yield own_api
    finally:
        if not was_up:
            _localcluster("down", "--name", NAME)


def _localcluster(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run one command of `python -m localcluster`; what it tells goes to the terminal."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "localcluster", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=check)
