"""A BertDeployment of TF Serving as users write it, for unit and golden tests. TensorFlow isn't needed."""

from typing import Any, Final

from bert_operator.api.report import TensorSpec
from bert_operator.settings import Settings
from support import builders

RELEASES: Final = {
    "defaultRelease": "2.20.0",
    "releases": {
        "2.19.1": {"image": "registry.example/serving:2.19.1"},
        "2.20.0": {"image": "registry.example/serving:2.20.0"},
    },
}
LOGITS: Final = {"format": "savedmodel", "outputs": [TensorSpec(name="logits", dtype="FP32", dims=[2])]}
"""What the report of a classifier's build says otherwise."""


def settings(**changes: Any) -> Settings:
    """Settings of an installation with TF Serving."""
    images = {name: f"registry.example/{name}:1" for name in ("operator", "build", "tensorflow")}
    return builders.settings(**{"images": images, "tfserving": RELEASES} | changes)


def model(name: str = "sentiment", *numbers: int, **changes: Any) -> dict[str, Any]:
    """One classifier with these versions (1, if none is given); the highest is the default one."""
    versions = [version(number) for number in numbers or (1,)]
    plain = {"build": {"task": "sequence-classification"}, "versions": versions}
    default = {"defaultVersion": max(numbers)} if len(numbers) > 1 else {}
    return builders.model(name, **plain | default | changes)


def version(number: int, *labels: str) -> dict[str, Any]:
    """One version and its labels."""
    return {"version": number, "source": {"pvc": {"claimName": "models"}}, "labels": list(labels)}
