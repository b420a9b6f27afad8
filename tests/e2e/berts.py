"""BertDeployments of the end-to-end tests, and what users look at."""

from typing import Any

import yaml

from support.installation import ROOT
from support.kube import Kube, condition

OURS = "app.kubernetes.io/managed-by=bert-operator"
SAMPLES = ROOT / "crds" / "samples"
LITTLE = {"cpu": "100m"}
"""What servers ask for here. Rollouts of several modules at once wait for each other otherwise: there are two cores."""


def sample(name: str) -> dict[str, Any]:
    """A file of crds/samples, of the name, that asks for little of a processor."""
    bert: dict[str, Any] = yaml.safe_load((SAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    bert["spec"]["server"].setdefault("resources", {})["requests"] = LITTLE
    return bert


def minilm(name: str = "minilm", **spec: Any) -> dict[str, Any]:
    """The sample's spec, small enough for two cores."""
    model = {
        "name": "minilm",
        "build": {"task": "feature-extraction", "maxSequenceLength": 64},
        "versions": [{"version": 1, "source": {"pvc": {"claimName": "models", "path": "all-MiniLM-L6-v2"}}}],
    }
    server = {"type": "triton", "resources": {"requests": LITTLE}}
    return {
        "apiVersion": "bertops.dev/v1alpha1",
        "kind": "BertDeployment",
        "metadata": {"name": name},
        "spec": {"server": server, "storage": {"size": "1Gi"}, "models": [model]} | spec,
    }


def with_source(name: str, source: dict[str, Any], *, claim: str, **build: Any) -> dict[str, Any]:
    """A BertDeployment that builds from some source into an existing claim."""
    bert = minilm(name, storage={"claimName": claim})
    bert["spec"]["models"][0]["versions"][0]["source"] = source
    bert["spec"]["models"][0]["build"] |= build
    return bert


def verdict(kube: Kube, name: str, kind: str, status: str, *, seconds: float) -> dict[str, Any]:
    """A condition once it has this status for the present spec."""
    kube.wait_condition("bertdeployment", name, kind, status, seconds=seconds)
    return condition(kube.get("bertdeployment", name), kind)


def serving_pods(kube: Kube, name: str) -> list[dict[str, Any]]:
    """The serving pods of a BertDeployment."""
    return list(kube.list("pods", f"app.kubernetes.io/instance={name},app.kubernetes.io/component=server"))
