"""Mistakes and mishaps end in a condition that names cause and next step, and leave nothing half-written."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import berts, volumes
from e2e.cluster import CLUSTER, localcluster
from support.installation import Images, loader_pod
from support.kube import Kube

STORE = "store"


@pytest.fixture(scope="module")
def models(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside the good model: one with torn weights, and one that isn't a BERT."""
    folder = tmp_path_factory.mktemp("models")
    for name in (model.name, "torn", "gpt"):
        shutil.copytree(model, folder / name)
    os.truncate(folder / "torn" / "model.safetensors", 1_000_000)
    gpt = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (folder / "gpt" / "config.json").write_text(json.dumps(gpt), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", autouse=True)
def store(kube: Kube) -> None:
    """Where all build to."""
    _claim(kube, STORE)


def _claim(kube: Kube, name: str, **spec: Any) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}} | spec
    kube.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})


def pvc(path: str) -> dict[str, Any]:
    return {"pvc": {"claimName": "models", "path": path}}


CASES = {
    "wrong-path": (pvc("all-MiniLM"), "SourceResolved", ["all-MiniLM", "all-MiniLM-L6-v2"]),
    "torn-weights": (pvc("torn"), "Built", ["model.safetensors"]),
    "not-a-bert": (pvc("gpt"), "Built", ["gpt2"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_named_with_its_next_step(kube: Kube, name: str) -> None:
    source, kind, words = CASES[name]
    kube.apply(berts.with_source(name, source, claim=STORE))
    found = berts.verdict(kube, name, kind, "False", seconds=120)
    for word in words:
        assert word in found["message"]
    assert "next: " in found["message"]
    assert berts.verdict(kube, name, "Ready", "False", seconds=10)["reason"] == found["reason"]
    assert volumes.files(kube, STORE) == []


def test_an_unknown_revision_is_named(kube: Kube) -> None:
    source = {"huggingFace": {"repo": "team/bert", "revision": "no-such-branch"}}
    kube.apply(berts.with_source("no-revision", source, claim=STORE))
    found = berts.verdict(kube, "no-revision", "SourceResolved", "False", seconds=120)
    assert "no-such-branch" in found["message"]
    assert "next: " in found["message"]
    assert volumes.files(kube, STORE) == []


def test_a_full_disk_is_named_and_nothing_half_written_is_left(kube: Kube, images: Images, small_claim: str) -> None:
    kube.apply(berts.with_source("full", pvc("all-MiniLM-L6-v2"), claim=small_claim))
    found = berts.verdict(kube, "full", "Built", "False", seconds=200)
    assert found["reason"] == "StoreFull", "refused before anything is written"
    assert "next: " in found["message"]
    # Only the node sees this file system.
    with loader_pod(kube, images.operator, small_claim, "look") as pod:
        assert kube.kubectl("exec", pod, "--", "find", "/data", "-type", "f").split() == []


@pytest.fixture
def small_claim(kube: Kube, tmp_path: Path) -> Iterator[str]:
    """A claim on a file system of 20 MiB that is really full."""
    folder = tmp_path / "small"
    folder.mkdir()
    _on_the_node("mount", "-t", "tmpfs", "-o", "size=20m,mode=0777", "tmpfs", str(folder))
    name = f"small-{kube.namespace}"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "20Mi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "hostPath": {"path": str(folder)},
        },
    }
    kube.apply(volume)
    _claim(kube, "small", storageClassName="", volumeName=name, resources={"requests": {"storage": "20Mi"}})
    yield "small"
    kube.kubectl("delete", "bertd", "full", "--ignore-not-found", "--cascade=foreground", "--wait=true")
    kube.kubectl("delete", "pvc", "small", "--wait=true")
    kube.run("kubectl", "delete", "pv", name, "--wait=true")
    _on_the_node("umount", "-l", str(folder))


def _on_the_node(*command: str) -> None:
    """Run a command where the kubelet's mounts are: a node has a mount namespace of its own."""
    status = localcluster("status", "--name", CLUSTER)
    pid = next(line.split()[1] for line in status.splitlines() if "kubelet" in line.split()[0])
    subprocess.run(["nsenter", "--target", pid, "--mount", *command], check=True)
