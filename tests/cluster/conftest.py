"""A real API server for the tests of this folder.

`BERTOPS_TEST_KUBECONFIG` names an existing one (kind, a development cluster); kubectl and helm then come from PATH.
Without it a control plane is started on this machine by `localcluster`, and stopped after the tests unless it ran
already.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import cluster
from localcluster.binaries import built
from localcluster.config import Options, cache_folder
from support.kube_api import KubeApi

NAME = "apitests"


@pytest.fixture(scope="session")
def api() -> Iterator[KubeApi]:
    """A real API server."""
    if given := os.environ.get("BERTOPS_TEST_KUBECONFIG"):
        with KubeApi(Path(given)) as given_api:
            yield given_api
        return
    cache = cache_folder()
    was_up = NAME in cluster.names(cache)
    running = cluster.up(Options(NAME, 0, control_plane_only=True), cache)
    try:
        with KubeApi(running.folders.kubeconfig, binaries=built(cache)) as own_api:
            yield own_api
    finally:
        if not was_up:
            cluster.down(NAME, cache)
