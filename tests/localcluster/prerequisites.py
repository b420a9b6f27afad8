"""What the machine must bring, checked before anything is started, with the Debian packages to install.

`cluster.py` and `binaries.py` call the checks; only the command `prerequisites --install` changes the machine.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from localcluster.errors import ClusterError
from localcluster.progress import step

_OLDEST_GO = (1, 21)  # the first that fetches the toolchain a go.mod asks for by itself
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
_CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")


@dataclass(frozen=True)
class Tool:
    """A program and the Debian package that brings it."""

    program: str
    package: str


GO = Tool("go", "golang-go")
CONTROL_PLANE = (Tool("ip", "iproute2"), Tool("nsenter", "util-linux"), Tool("openssl", "openssl"))
NODE = (
    Tool("containerd", "containerd"),
    Tool("ctr", "containerd"),
    Tool("runc", "runc"),
    Tool("iptables", "iptables"),
    Tool("conntrack", "conntrack"),
    Tool("socat", "socat"),
    Tool("unshare", "util-linux"),
    Tool("mount", "mount"),
    Tool("gcc", "gcc"),
)
_CNI_PACKAGE = "containernetworking-plugins"
_LIBC_HEADERS = (Path("/usr/include/stdlib.h"), "libc6-dev")
_AUTHORITIES = (Path("/etc/ssl/certs/ca-certificates.crt"), "ca-certificates")


def check_build() -> None:
    """Raise unless the binaries can be built here."""
    _raise_if_missing([GO.package] if shutil.which(GO.program) is None else [])
    found = go_version(subprocess.run(["go", "version"], check=True, capture_output=True, text=True).stdout)
    if found < _OLDEST_GO:
        msg = (
            f"Go {'.'.join(map(str, found))} is too old: install Go {'.'.join(map(str, _OLDEST_GO))} or newer "
            "(golang-go of Debian 13, or of bookworm-backports) and put it first on PATH"
        )
        raise ClusterError(msg)


def check_run(*, with_nodes: bool) -> None:
    """Raise unless a cluster can run here."""
    if platform.system() != "Linux":
        msg = "a local cluster needs Linux; elsewhere use kind with kind-config.yaml"
        raise ClusterError(msg)
    if os.geteuid() != 0:
        msg = "a local cluster makes network namespaces and cgroups: run this as root"
        raise ClusterError(msg)
    _raise_if_missing(missing_packages(with_nodes=with_nodes))


def missing_packages(*, with_nodes: bool) -> list[str]:
    """The Debian packages to install before a cluster can run."""
    tools = (*CONTROL_PLANE, *NODE) if with_nodes else CONTROL_PLANE
    missing = {tool.package for tool in tools if shutil.which(tool.program) is None}
    if with_nodes and cni_plugins() is None:
        missing.add(_CNI_PACKAGE)
    if with_nodes:
        missing |= _packages_of_absent(_LIBC_HEADERS)
    return sorted(missing)


def cni_plugins() -> Path | None:
    """The folder with the CNI plugins that a node's configuration names."""
    complete = (folder for folder in _CNI_FOLDERS if all((folder / plugin).exists() for plugin in _CNI_PLUGINS))
    return next(complete, None)


def install(also: Iterable[str] = ()) -> None:
    """Install the missing Debian packages, and others with them: for a fresh Debian machine, as root."""
    packages = [*missing_packages(with_nodes=True), *_packages_of_absent(_AUTHORITIES), *also]
    if shutil.which(GO.program) is None:
        packages.append(GO.package)
    if not packages:
        step("every prerequisite is installed")
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        _raise_if_missing(packages)
    step(f"installing {' '.join(packages)}")
    _apt_get("update", "-q")
    _apt_get("install", "-q", "-y", "--no-install-recommends", *packages)


def _packages_of_absent(*files: tuple[Path, str]) -> set[str]:
    return {package for path, package in files if not path.exists()}


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(["apt-get", *arguments], check=False, env=environment).returncode != 0:
        msg = f"`apt-get {' '.join(arguments)}` failed; its messages are above"
        raise ClusterError(msg)


def go_version(text: str) -> tuple[int, int]:
    """The version in the output of `go version`."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    if found is None:
        msg = f"`go version` printed {text!r}"
        raise ClusterError(msg)
    return int(found[1]), int(found[2])


def _raise_if_missing(packages: list[str]) -> None:
    if packages:
        msg = f"missing on this machine; as root: apt-get install -y {' '.join(packages)}"
        raise ClusterError(msg)
