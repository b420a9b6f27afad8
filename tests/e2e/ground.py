"""What all end-to-end tests stand on: the cluster with its images, a hub, and the operator.

Several processes run the tests side by side. The first that needs a part makes it, under a lock; the others find it.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from e2e import berts, volumes
from e2e.cluster import CLUSTER, localcluster
from support.direct_kube import DirectKube
from support.installation import (
    ROOT,
    Images,
    built_images,
    install_operator,
    put_model,
    restricted_namespace,
)
from support.kube import Kube

HUB_NAMESPACE: Final = "hub"
HUB_URL: Final = f"http://hub.{HUB_NAMESPACE}.svc:8000"
REPOSITORY: Final = "team/bert"
_SERVER: Final = ROOT / "tests/support/hub_server.py"
_USER: Final = 1000
"""Of builds."""
_SMALL: Final = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
"""Four test modules at once must fit on two cores, each with a build or a rollout."""


class Ground:
    """The parts, each made at most once per test run, in whichever process is first."""

    def __init__(self, folder: Path) -> None:
        """`folder` belongs to this run alone and is seen by all of its processes."""
        self.folder = folder

    def images(self) -> Images:
        """Images built from this tree, loaded on the node."""
        return Images(**self._once("images", lambda: asdict(_loaded_images())))

    def kube(self) -> Kube:
        """The cluster with the images on its node."""
        self.images()
        told = self._once("kube", _places)
        return DirectKube(kubeconfig=Path(told["kubeconfig"]), tools=Path(told["tools"]))

    def operator(self, model: Path) -> Kube:
        """The cluster with the operator installed by Helm; its hub is a stand-in that has `model` as team/bert."""
        kube, images = self.kube(), self.images()
        self._once("operator", lambda: _install(kube, images, model))
        return kube

    def store(self, model: Path, copy: Path) -> None:
        """Fill the folder `copy`, for a claim, with what a build of `berts.minilm()` published."""
        kube = self.operator(model)
        shutil.copytree(self._once("store", lambda: str(_built(kube))), copy)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, _USER, _USER)

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        made = self.folder / f"{name}.json"
        with _locked(self.folder / f"{name}.lock"):
            if not made.exists():
                made.write_text(json.dumps(make()), encoding="utf-8")
        return json.loads(made.read_text(encoding="utf-8"))


def install(kube: Kube, images: Images, **values: Any) -> None:
    """The operator as every test here finds it."""
    build = {"resources": _SMALL}
    install_operator(kube, images, hub=HUB_URL, build=build, **values)


def _install(kube: Kube, images: Images, model: Path) -> bool:
    with ThreadPoolExecutor(2) as pool:
        for done in (pool.submit(install, kube, images), pool.submit(_serve_hub, kube, images.operator, model)):
            done.result()
    return True


def _loaded_images() -> Images:
    references, archives = built_images("tensorflow", "tfserving-standin", "torchserve", "analyzer", "triton-cpu-torch")
    localcluster("keep-images", *map(str, archives))
    localcluster("up", "--name", CLUSTER)
    localcluster("load-image", *map(str, archives), "--name", CLUSTER)
    return references


def _built(kube: Kube) -> Path:
    """The folder of a claim on which MiniLM is published, and which nothing uses any more."""
    here = replace(kube, namespace=HUB_NAMESPACE)
    here.apply(berts.minilm())
    berts.verdict(here, "minilm", "Built", "True", seconds=300)
    here.kubectl("delete", "bertd", "minilm")
    return volumes.folder_of(here, "minilm-store")


def _places() -> dict[str, str]:
    return {
        "kubeconfig": localcluster("kubeconfig", "--name", CLUSTER),
        "tools": localcluster("build-binaries").splitlines()[-1],
    }


def _serve_hub(kube: Kube, image: str, model: Path) -> None:
    """The stand-in of the Hugging Face Hub, as a pod with the model on a claim."""
    here = replace(kube, namespace=HUB_NAMESPACE)
    restricted_namespace(here)
    put_model(here, image, model)
    labels = {"app": "hub"}
    code = {"hub_server.py": _SERVER.read_text(encoding="utf-8")}
    metadata = {"name": "hub", "labels": labels}
    here.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": code})
    here.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _hub_pod(image, model.name)})
    service = {"selector": labels, "ports": [{"port": 8000}]}
    here.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    here.kubectl("wait", "pod/hub", "--for=condition=Ready", "--timeout=360s")


def _hub_pod(image: str, model: str) -> dict[str, Any]:
    container = {
        "name": "hub",
        "image": image,
        "command": ["python", "/code/hub_server.py", REPOSITORY, f"/data/{model}", "8000"],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "code", "mountPath": "/code", "readOnly": True},
            {"name": "data", "mountPath": "/data", "readOnly": True},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [
            {"name": "code", "configMap": {"name": "hub"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "models"}},
        ],
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
