"""Which cluster the demo runs on: the user's own, kind where Docker is, else the one of `localcluster`."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import yaml

from demo import given
from images.catalog import BASIC
from support.installation import ROOT, Images, field_of
from support.kube import CommandError, Kube

NAME: Final = "bert"
_VARIABLES: Final = {
    "operator": ("IMAGE_OPERATOR", "operator/Dockerfile"),
    "pytorch": ("IMAGE_BUILD", "build_jobs/pytorch.Dockerfile"),
    "triton-cpu": ("IMAGE_TRITON", "build_jobs/triton-cpu.Dockerfile"),
    "triton-cpu-torch": ("IMAGE_TRITON_TORCH", "build_jobs/triton-cpu-torch.Dockerfile"),
    "tensorflow": ("IMAGE_TENSORFLOW", "build_jobs/tensorflow.Dockerfile"),
    "tfserving-standin": ("TFSERVING_IMAGE", "TF Serving's own"),
    "torchserve": ("IMAGE_TORCHSERVE", "build_jobs/torchserve.Dockerfile"),
    "analyzer": ("IMAGE_ANALYZER", "build_jobs/analyzer.Dockerfile"),
}
"""Image -> variable that names it for a cluster that pulls, and where it comes from."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One way to a cluster."""

    name: str

    @property
    def makes_cluster(self) -> bool:
        """Whether the cluster is ours to make and to remove."""
        return self.name != "existing"

    def up(self) -> None:
        """Bring the cluster up; quick if it is."""
        if self.name == "kind":
            if NAME not in _output("kind", "get", "clusters").split():
                _run("kind", "create", "cluster", "--name", NAME, "--config", str(ROOT / "kind-config.yaml"))
        elif self.name == "localcluster":
            _run(sys.executable, "-m", "localcluster", "up", "--name", NAME)

    def keep(self, archives: Sequence[Path]) -> None:
        """Unpack images for the nodes of a cluster that comes up later, where that can be done."""
        if self.name == "localcluster":
            _run(sys.executable, "-m", "localcluster", "keep-images", *map(str, archives))

    def load(self, archives: Sequence[Path]) -> None:
        """Put images on every node."""
        if self.name == "kind":
            for archive in archives:
                _run("kind", "load", "image-archive", str(archive), "--name", NAME)
        elif self.name == "localcluster":
            _run(sys.executable, "-m", "localcluster", "load-image", *map(str, archives), "--name", NAME)

    def down(self) -> None:
        """Remove the cluster if it is ours."""
        if self.name == "kind":
            _run("kind", "delete", "cluster", "--name", NAME)
        elif self.name == "localcluster":
            _run(sys.executable, "-m", "localcluster", "down", "--name", NAME)

    def kube(self, namespace: str) -> Kube:
        """Tools that talk to it."""
        if self.name == "existing":
            home = Path(os.environ.get("HOME", "/root")) / ".kube" / "config"
            return Kube(
                kubeconfig=Path(os.environ.get("KUBECONFIG") or home), namespace=namespace, tools=_tools(os.environ)
            )
        if self.name == "kind":
            folder = Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))  # noqa: S108 - a kubeconfig of a throw-away cluster
            path = folder / f"kubeconfig-{NAME}"
            path.write_text(_output("kind", "get", "kubeconfig", "--name", NAME), encoding="utf-8")
            return Kube(kubeconfig=path, namespace=namespace, tools=_tools(os.environ))
        config = _output(sys.executable, "-m", "localcluster", "kubeconfig", "--name", NAME).strip()
        return Kube(kubeconfig=Path(config), namespace=namespace, tools=_ours())


def choose(environment: Mapping[str, str]) -> Provider:
    """The user's cluster if one is named, kind if Docker answers and kind is there, else our own."""
    if given.cluster(environment):
        return Provider(name="existing")
    if shutil.which("kind") and shutil.which("docker") and _quiet("docker", "info"):
        return Provider(name="kind")
    return Provider(name="localcluster")


def address_towards(kube: Kube) -> str:
    """This machine's address on the way to a cluster's API server, where pods reach it too; no packet is sent."""
    config = yaml.safe_load(kube.kubeconfig.read_text(encoding="utf-8"))
    parts = urlsplit(config["clusters"][0]["cluster"]["server"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port))
        return str(probe.getsockname()[0])


def given_images(environment: Mapping[str, str], more: Sequence[str] = ()) -> Images:
    """Images for a cluster that we can't load images into: the basic ones and `more`.

    Raises:
        CommandError: they aren't all named.
    """
    wanted = (*BASIC, *more)
    missing = [_VARIABLES[name] for name in wanted if not environment.get(_VARIABLES[name][0])]
    if missing:
        raise CommandError(
            f"an existing cluster needs images that its nodes can pull: set {', '.join(name for name, _ in missing)} "
            f"(build them from {', '.join(source for _, source in missing)})"
        )
    return Images(**{field_of(name): environment[_VARIABLES[name][0]] for name in wanted})


def _tools(environment: Mapping[str, str]) -> Path | None:
    """Folder with kubectl and helm; None where the user has both."""
    return None if given.tools(environment) else _ours()


def _ours() -> Path:
    return Path(_output(sys.executable, "-m", "localcluster", "build-binaries").strip().splitlines()[-1])


def _run(*command: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise CommandError(f"failed: {' '.join(command)}")


def _output(*command: str) -> str:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise CommandError(f"failed: {' '.join(command)}")
    return done.stdout


def _quiet(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
