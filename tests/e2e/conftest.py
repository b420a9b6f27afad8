"""A real node, the operator installed by its chart, and a real model on a claim: once for all end-to-end tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from e2e import volumes
from e2e.ground import Ground
from support.installation import ROOT, Images, restricted_namespace
from support.kube import Kube

LONGEST = ("test_tuning", "test_torchserve", "test_localcluster", "test_tfserving", "test_life", "test_versions")
"""They begin first, so that no process works through one of them while the others have nothing left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the node; modules go side by side, the longest first."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def model() -> Path:
    """Folder of all-MiniLM-L6-v2."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "images", "fixture", "minilm"]
    printed = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Path(os.environ.get("BERTOPS_E2E_MODEL") or printed.strip())


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """What all processes of this run share."""
    own = tmp_path_factory.getbasetemp()
    if shared := os.environ.get("BERTOPS_E2E_GROUND"):
        own = Path(shared)  # of all runs of one `make test`
        own.mkdir(parents=True, exist_ok=True)
    elif "PYTEST_XDIST_WORKER" in os.environ:
        own = own.parent  # a worker of pytest-xdist has a folder of its own inside the run's
    return Ground(own)


@pytest.fixture(scope="session")
def images(ground: Ground) -> Images:
    """Images built from this tree, loaded on the node."""
    return ground.images()


@pytest.fixture(scope="session")
def cluster(ground: Ground, model: Path) -> Kube:
    """The cluster with the operator installed by Helm; its hub is a stand-in."""
    return ground.operator(model)


@pytest.fixture(scope="module")
def models(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what the claim `models` holds: the real model, unless a module says otherwise."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(model, folder / model.name)
    return folder


@pytest.fixture(scope="module")
def kube(cluster: Kube, models: Path, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """A namespace of the test module's own, with models on the claim `models`; "restricted" is enforced."""
    name = "e2e-" + request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    here = replace(cluster, namespace=name)
    restricted_namespace(here)
    volumes.claim(here, "models", models)
    yield here
    # How servers drain is tested elsewhere; nobody waits for it here.
    here.kubectl("delete", "bertd,deployments,jobs", "--all", "--wait=false")
    here.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    here.run("kubectl", "delete", f"namespace/{name}", f"pv/{volumes.volume_of(here, 'models')}", "--wait=false")


@pytest.fixture(scope="module")
def store(kube: Kube, ground: Ground, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A claim on which `berts.minilm()` is published: for what doesn't test how it gets there."""
    folder = tmp_path_factory.mktemp("claims") / "store"
    ground.store(model, folder)
    volumes.claim(kube, "store", folder)
    yield "store"
    kube.run("kubectl", "delete", f"pv/{volumes.volume_of(kube, 'store')}", "--wait=false")


@pytest.fixture(autouse=True)
def tell_on_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """When a test fails, say what the cluster looked like."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before and "kube" in request.fixturenames:
        here: Kube = request.getfixturevalue("kube")
        print(here.kubectl("get", "bertd,pods,jobs,pvc", "-o", "wide", check=False))
        print(here.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-4000:])
        system = replace(here, namespace="bert-system")
        print(system.kubectl("logs", "deployment/bert-operator", "--tail=60", check=False))
