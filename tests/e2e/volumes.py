"""Claims whose files the tests see without a pod: a volume of the end-to-end cluster is a folder of this machine."""

from pathlib import Path
from typing import Any

from support.kube import Kube


def claim(kube: Kube, name: str, folder: Path) -> None:
    """Bind a new claim to a folder of this machine, and let every user read it: safetensors writes files with 600.

    Only the folder's owner may write.
    """
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    volume = volume_of(kube, name)
    size = {"storage": "1Gi"}
    owner = {"namespace": kube.namespace, "name": name}
    kube.apply(_storage("PersistentVolume", volume, capacity=size, hostPath={"path": str(folder)}, claimRef=owner))
    kube.apply(_storage("PersistentVolumeClaim", name, volumeName=volume, resources={"requests": size}))


def volume_of(kube: Kube, claim: str) -> str:
    """Name of the volume that a claim of ours is bound to."""
    return f"{kube.namespace}-{claim}"


def folder_of(kube: Kube, claim: str) -> Path:
    """Where a bound claim's files lie on this machine."""
    bound = kube.get("pvc", claim)
    assert bound is not None, f"there is no claim {claim}"
    volume = kube.get("pv", bound["spec"]["volumeName"])
    assert volume is not None, f"claim {claim} isn't bound"
    return Path(volume["spec"]["hostPath"]["path"])


def files(kube: Kube, claim: str) -> list[Path]:
    """Every file of a claim."""
    return [path for path in folder_of(kube, claim).rglob("*") if path.is_file()]


def _storage(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    spec = {"storageClassName": "", "accessModes": ["ReadWriteOnce"]} | spec
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
