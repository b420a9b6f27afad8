"""The demo on the user's own cluster: what is built then, and what a missing tool is called."""

import os
from pathlib import Path

import pytest

from stages.__main__ import demo_steps
from support.kube import CommandError, Kube


def names(environment: dict[str, str]) -> list[str]:
    return [step.name for step in demo_steps("triton", Path("figures.json"), tune=False, environment=environment)]


@pytest.fixture
def tools(tmp_path: Path) -> str:
    """A PATH with kubectl and helm."""
    for name in ("kubectl", "helm"):
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return str(tmp_path)


@pytest.mark.parametrize("named", [{"USE_EXISTING_CLUSTER": "1"}, {"KUBECONFIG": "/home/me/.kube/config"}])
def test_on_the_users_cluster_with_the_users_tools_nothing_is_built(named: dict[str, str], tools: str) -> None:
    assert names(named | {"PATH": tools}) == ["venv", "model", "install", "serve"]


def test_tools_that_are_not_there_are_built(tmp_path: Path) -> None:
    found = names({"USE_EXISTING_CLUSTER": "1", "PATH": str(tmp_path)})
    assert found == ["prerequisites", "venv", "binaries", "model", "install", "serve"]


@pytest.mark.parametrize("environment", [{}, {"USE_EXISTING_CLUSTER": "1", "PATH": ""}])
def test_every_step_waits_for_steps_that_are_there(environment: dict[str, str]) -> None:
    steps = demo_steps("triton", Path("figures.json"), tune=True, environment=environment)
    assert {name for step in steps for name in step.after} <= {step.name for step in steps}


def test_a_tool_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(CommandError, match="helm isn't on PATH: install it"):
        Kube(kubeconfig=tmp_path / "config").helm("version")
