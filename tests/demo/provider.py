"""Which cluster the demo runs on: the user's own, kind where Docker is, else the one of `localcluster`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.installation import ROOT, Images
from support.kube import CommandError, Kube

NAME: Final = "bert"
_IMAGE_VARIABLES: Final = {"operator": "IMAGE_OPERATOR", "pytorch": "IMAGE_BUILD", "triton_cpu": "IMAGE_TRITON"}


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

    def load(self, archive: Path) -> None:
        """Put an image on every node."""
        if self.name == "kind":
            _run("kind", "load", "image-archive", str(archive), "--name", NAME)
        elif self.name == "localcluster":
            _run(sys.executable, "-m", "localcluster", "load-image", str(archive), "--name", NAME)

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
            return Kube(kubeconfig=Path(os.environ.get("KUBECONFIG") or home), namespace=namespace)
        if self.name == "kind":
            folder = Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))  # noqa: S108 - a kubeconfig of a throw-away cluster
            path = folder / f"kubeconfig-{NAME}"
            path.write_text(_output("kind", "get", "kubeconfig", "--name", NAME), encoding="utf-8")
            return Kube(kubeconfig=path, namespace=namespace)
        config = _output(sys.executable, "-m", "localcluster", "kubeconfig", "--name", NAME).strip()
        tools = _output(sys.executable, "-m", "localcluster", "build-binaries").strip().splitlines()[-1]
        return Kube(kubeconfig=Path(config), namespace=namespace, tools=Path(tools))


def choose(environment: Mapping[str, str]) -> Provider:
    """The user's cluster if one is named, kind if Docker answers and kind is there, else our own."""
    if environment.get("USE_EXISTING_CLUSTER") == "1" or environment.get("KUBECONFIG"):
        return Provider(name="existing")
    if shutil.which("kind") and shutil.which("docker") and _quiet("docker", "info"):
        return Provider(name="kind")
    return Provider(name="localcluster")


def given_images(environment: Mapping[str, str]) -> Images:
    """Images for a cluster that we can't load images into.

    Raises:
        CommandError: they aren't all named.
    """
    missing = [variable for variable in _IMAGE_VARIABLES.values() if not environment.get(variable)]
    if missing:
        raise CommandError(
            f"an existing cluster needs images that its nodes can pull: set {', '.join(missing)} "
            "(build them from operator/Dockerfile, build_jobs/pytorch.Dockerfile, build_jobs/triton-cpu.Dockerfile)"
        )
    return Images(**{field: environment[variable] for field, variable in _IMAGE_VARIABLES.items()})


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
