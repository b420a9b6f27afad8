"""Builds the multi-call binary from this folder's Go module and links each component's name to it.

A build is kept under a hash of everything that goes into it and appears there in one rename, so it is complete or
absent. Downloads come through the user's own Go settings (GOPROXY and so on); nothing here names a server.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from localcluster.errors import ClusterError
from localcluster.locks import locked
from localcluster.prerequisites import check_build
from localcluster.progress import step

COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
    "provisioner",
    "kubectl",
    "helm",
)
_PARTIAL = ".building-"
_MODULE = Path(__file__).parent


def built(cache: Path) -> Path:
    """The folder with the components' binaries, built first where needed."""
    check_build()
    folder = cache / "bin" / _inputs_hash()
    if not folder.exists():
        with locked(cache / "bin" / "lock", "a build of the binaries"):
            if not folder.exists():  # the holder before us may have built it
                _build_into(folder, cache)
    return folder


def _build_into(folder: Path, cache: Path) -> None:
    for abandoned in folder.parent.glob(f"{_PARTIAL}*"):
        shutil.rmtree(abandoned)  # its builder was killed: we hold the lock
    step("building Kubernetes, etcd, CoreDNS and helm (first time: many minutes, then kept)")
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
    try:
        command = ["go", "build", *_flags(), "-o", str(partial / "localcluster"), "."]
        if subprocess.run(command, cwd=_MODULE, env=go_environment(cache), check=False).returncode != 0:
            msg = "the build failed; the compiler's messages are above"
            raise ClusterError(msg)
        for component in COMPONENTS:
            (partial / component).symlink_to("localcluster")
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    step(f"built {folder}")


def _flags() -> list[str]:
    # No debugger will read this binary: without DWARF it compiles faster and is half the size.
    return ["-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", f"-ldflags={_linker_flags()}"]


def _linker_flags() -> str:
    """Without these stamps the servers call themselves v0.0.0."""
    version = kubernetes_version((_MODULE / "go.mod").read_text())
    major, minor, _ = version.removeprefix("v").split(".")
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    variables = [f"-X {package}.{name}={value}" for package in packages for name, value in stamps.items()]
    return " ".join(["-s", "-w", *variables])


def kubernetes_version(go_mod: str) -> str:
    """The release that go.mod requires."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", go_mod, re.MULTILINE)
    if found is None:
        msg = "go.mod requires no k8s.io/kubernetes"
        raise ClusterError(msg)
    return found[1]


def go_environment(cache: Path) -> dict[str, str]:
    """How Go programs are built here: whatever they share is downloaded and compiled once, in `cache`."""
    own = {"CGO_ENABLED": "0", "GOCACHE": str(cache / "go" / "build"), "GOMODCACHE": str(cache / "go" / "mod")}
    # The compiler spends a ninth of its time on collecting garbage otherwise.
    own["GOGC"] = "400"
    # A workspace or flags of the user's own must not change what is built.
    return {**os.environ, **own, "GOWORK": "off", "GOFLAGS": "-mod=readonly"}


def _inputs_hash() -> str:
    inputs = hashlib.sha256()
    for path in sorted([_MODULE / "go.mod", _MODULE / "go.sum", *_MODULE.glob("*.go")]):
        inputs.update(path.name.encode() + b"\0" + path.read_bytes())
    version = subprocess.run(["go", "version"], check=True, capture_output=True, cwd=_MODULE).stdout
    inputs.update("\0".join(_flags()).encode() + version)
    return inputs.hexdigest()[:16]
