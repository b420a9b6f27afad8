"""Getting the operator and a model onto a cluster: what the demo and the end-to-end tests have in common."""

import contextlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from images.catalog import BASIC
from support.kube import Kube, TooLate, wait_for

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "charts" / "bert-operator"
SYSTEM_NAMESPACE: Final = "bert-system"
RELEASE: Final = "bert-operator"
TRITON_RELEASE: Final = "24.10-cpu"
TRITON_TORCH_RELEASE: Final = "24.10-cpu-torch"
TFSERVING_RELEASE: Final = "2.20.0"
TORCHSERVE_RELEASE: Final = "0.12.0"


@dataclass(frozen=True, kw_only=True)
class Images:
    """References of the images built from this tree; empty where one isn't wanted."""

    operator: str
    pytorch: str
    triton_cpu: str
    triton_cpu_torch: str = ""
    tensorflow: str = ""
    torchserve: str = ""
    tfserving: str = ""
    """A stand-in built from tests/support, or the real TF Serving named by TFSERVING_IMAGE."""
    analyzer: str = ""

    def values(self) -> dict[str, Any]:
        """Helm values that make the chart use them."""
        triton: dict[str, Any] = {
            "defaultRelease": TRITON_RELEASE,
            "releases": {TRITON_RELEASE: {"image": self.triton_cpu, "onnxBackend": "onnxruntime_python"}},
        }
        if self.triton_cpu_torch:
            backends = {"onnxBackend": "", "torchBackend": "pytorch_python"}
            triton["releases"][TRITON_TORCH_RELEASE] = {"image": self.triton_cpu_torch, **backends}
        # Two cores must hold the operator, two servers during a rollout, and a build.
        build = {"resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}}
        images = {
            "operator": self.operator,
            "build": self.pytorch,
            "tensorflow": self.tensorflow,
            "analyzer": self.analyzer,
        }
        values: dict[str, Any] = {"images": images, "triton": triton, "build": build}
        # No node here has a GPU: what asks for one waits, and says so.
        values["hardwareProfiles"] = {"gpu": {"resourceName": "nvidia.com/gpu", "exportProfile": "cpu"}}
        for server, release, image in (
            ("tfserving", TFSERVING_RELEASE, self.tfserving),
            ("torchserve", TORCHSERVE_RELEASE, self.torchserve),
        ):
            if image:
                values[server] = {"defaultRelease": release, "releases": {release: {"image": image}}}
        return values


def built_images(*more: str) -> tuple[Images, list[Path]]:
    """Build what changed of the basic images and `more`; the references and the archives to load on the nodes."""
    given = {"tfserving-standin": os.environ.get("TFSERVING_IMAGE", "")}
    wanted = [name for name in (*BASIC, *more) if not given.get(name)]
    command = [sys.executable, "-m", "images", "build", *dict.fromkeys(wanted)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    lines = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    rows = [line.split("\t") for line in lines]
    tags = {name: tag for name, tag, _ in rows} | {name: given[name] for name in more if given.get(name)}
    return Images(**{field_of(name): tag for name, tag in tags.items()}), [Path(archive) for _, _, archive in rows]


def field_of(image: str) -> str:
    """The field of Images that holds an image's reference."""
    return image.removesuffix("-standin").replace("-", "_")


def install_operator(kube: Kube, images: Images, *, hub: str = "", **values: Any) -> None:
    """`helm upgrade --install`, waiting until the operator is ready; `hub` is a mirror of the Hugging Face Hub."""
    chosen = images.values() | values
    chosen["build"]["hubEndpoint"] = hub
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(chosen, file)
        file.flush()
        kube.helm(
            *("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM_NAMESPACE, "--create-namespace"),
            *("--values", file.name, "--wait", "--timeout", "3m"),
        )


def restricted_namespace(kube: Kube) -> None:
    """A namespace that admits only pods of the Pod Security standard "restricted", and admits them already."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kube.namespace, "labels": labels}})
    # A pod is refused until the controller manager has made this, a moment after the namespace.
    wait_for("the namespace's ServiceAccount", lambda: kube.get("serviceaccount", "default"), seconds=60)


def put_model(kube: Kube, image: str, folder: Path, claim: str = "models", *, size: str = "1Gi") -> None:
    """Copy a model's files into a claim, as a platform team would: through a pod that mounts it."""
    kube.apply(_claim(claim, size))
    with loader_pod(kube, image, claim, f"load-{claim}") as pod:
        _copy(kube, pod, folder)


@contextlib.contextmanager
def loader_pod(kube: Kube, image: str, claim: str, name: str) -> Iterator[str]:
    """A pod that mounts a claim at /data and waits to be told what to do; its name."""
    kube.apply(_loader(name, claim, image))
    try:
        kube.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=360s")
        yield name
    finally:
        kube.kubectl("delete", "pod", name, "--grace-period=1", "--wait=true")


def _copy(kube: Kube, pod: str, folder: Path) -> None:
    """Stream a tar archive into the pod; the model lands in a folder of its own name."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder, arcname=folder.name, filter=_plain_owner)
    command = ["kubectl", "--namespace", kube.namespace, "exec", "-i", pod, "--", "tar", "-xf", "-", "-C", "/data"]
    subprocess.run(command, env=kube.environment(), input=archive.getvalue(), check=True)


def _plain_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 1000
    entry.uname = entry.gname = ""
    return entry


def _claim(name: str, size: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def _loader(name: str, claim: str, image: str) -> dict[str, Any]:
    container = {
        "name": "loader",
        "image": image,
        "command": ["sleep", "600"],
        # Without a request it would get what all others leave, and some of what it is told to do is work.
        "resources": {"requests": {"cpu": "100m"}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": security,
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def wait_ready(kube: Kube, name: str, *, seconds: float) -> dict[str, Any]:
    """The BertDeployment once it is Ready for its present spec.

    Raises:
        TooLate: it isn't; the text holds its status.
    """
    kube.wait_condition("bertdeployment", name, "Ready", "True", seconds=seconds)
    live = kube.get("bertdeployment", name)
    if live is None:
        raise TooLate(f"bertdeployment/{name} was Ready and is gone")
    return live
