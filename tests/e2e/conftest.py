"""A real node, the operator installed by its chart, and a real model on a claim: once for all end-to-end tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from demo.provider import address_towards
from e2e.cluster import CLUSTER, localcluster
from support import hub_server
from support.installation import (
    ROOT,
    Images,
    built_images,
    install_operator,
    put_model,
    restricted_namespace,
)
from support.kube import Kube


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the node."""
    for item in items:
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def model() -> Path:
    """Folder of all-MiniLM-L6-v2."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "images", "fixture", "minilm"]
    printed = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Path(os.environ.get("BERTOPS_E2E_MODEL") or printed.strip())


@pytest.fixture(scope="session")
def images() -> Images:
    """Images built from this tree, loaded on the node."""
    references, archives = built_images("tensorflow", "tfserving-standin", "torchserve", "analyzer")
    localcluster("up", "--name", CLUSTER)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda archive: localcluster("load-image", str(archive), "--name", CLUSTER), archives))
    return references


@pytest.fixture(scope="session")
def node(images: Images) -> Kube:
    """The cluster with the images on its node."""
    assert images
    kubeconfig = Path(localcluster("kubeconfig", "--name", CLUSTER))
    return Kube(kubeconfig=kubeconfig, tools=Path(localcluster("build-binaries").splitlines()[-1]))


@pytest.fixture(scope="session")
def hub(node: Kube, model: Path) -> Iterator[hub_server.Hub]:
    """A stand-in for the Hugging Face Hub that pods reach; it has the real model as team/bert."""
    with hub_server.running(address_towards(node)) as hub:
        hub.files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
        yield hub


@pytest.fixture(scope="session")
def cluster(node: Kube, images: Images, hub: hub_server.Hub) -> Kube:
    """The cluster with the operator installed by Helm; its hub is the stand-in."""
    install_operator(node, images, hub=hub.url)
    return node


@pytest.fixture(scope="module")
def kube(cluster: Kube, images: Images, model: Path, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """A namespace of the test module's own, with the real model on the claim `models`; "restricted" is enforced."""
    name = "e2e-" + request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    here = replace(cluster, namespace=name)
    restricted_namespace(here)
    put_model(here, images.operator, model)
    yield here
    # How servers drain is tested elsewhere; waiting for it here would take half a minute of each module.
    here.kubectl("delete", "bertd,deployments,jobs", "--all", "--wait=false")
    here.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    here.run("kubectl", "delete", "namespace", name, "--wait=true", "--timeout=120s")


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
