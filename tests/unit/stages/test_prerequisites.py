"""A bare machine: everything that the recipes need is asked of its package manager, once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from images import engine
from localcluster import prerequisites
from localcluster.errors import ClusterError
from stages.prerequisites import main

BUILDER = {"buildah", "debootstrap", "skopeo"}
NODE = {"conntrack", "containerd", "iptables", "runc", "socat"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """A machine with a package manager alone, and what that was told to install."""
    calls = tmp_path / "calls"
    (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prerequisites.os, "geteuid", lambda: 0)

    def told() -> set[str]:
        wanted = [line.split() for line in calls.read_text().splitlines() if "install" in line.split()]
        assert len(wanted) == 1
        return set(wanted[0])

    return told


def test_a_bare_machine_gets_what_clusters_and_images_need(installed: Callable[[], set[str]]) -> None:
    assert main() == 1  # this package manager brings nothing
    assert installed() >= BUILDER | NODE | {"golang-go"}


def test_docker_builds_without_more(installed: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTOPS_ENGINE", "docker")
    assert main() == 1
    assert not installed() & BUILDER


def test_what_is_there_is_not_asked_for(installed: Callable[[], set[str]], tmp_path: Path) -> None:
    (tmp_path / "buildah").write_text("")
    (tmp_path / "buildah").chmod(0o755)
    assert engine.missing_packages() == ["debootstrap", "skopeo"]
    with pytest.raises(ClusterError, match="golang-go"):
        prerequisites.check_build()
    assert main() == 1
    assert "buildah" not in installed()
