"""Settings: those of an installation, from a file, or assumed ones where no file is given."""

from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from bert_operator.cli.terminal import FailureError
from bert_operator.settings import Images, Settings

IMAGE: Final = "registry.invalid/{}:from-settings"
"""Stands for an image that only an installation's settings know."""
NOTE: Final = (
    "no --settings: image references registry.invalid/… stand for those of your installation, releases and build "
    "resources are the chart's defaults, and cpu is the only hardware profile"
)
_KEY: Final = "settings.yaml"
"""Of the chart's ConfigMap."""


def settings(file: str | None) -> Settings:
    """Settings of a file: the chart's settings.yaml, or its ConfigMap as kubectl prints it. Without one, assumed ones.

    Raises:
        FailureError: it can't be read or isn't one.
    """
    if file is None:
        return Settings.model_validate(_ASSUMED)
    try:
        return Settings.model_validate(_parsed(file))
    except OSError as error:
        raise FailureError(f"--settings {file}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FailureError(f"--settings {file}: isn't YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, found["loc"])) or "the file"
        hint = "give the operator's settings: kubectl get configmap -n bert-system bert-operator-settings -o yaml"
        raise FailureError(f"--settings {file}: {field}: {found['msg']}; {hint}") from error


def _parsed(file: str) -> Any:  # noqa: ANN401 - any YAML
    loaded = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    if isinstance(loaded, dict) and loaded.get("kind") == "ConfigMap":
        return yaml.safe_load((loaded.get("data") or {}).get(_KEY) or "")
    return loaded


_ASSUMED: Final[dict[str, Any]] = {
    "images": {name: IMAGE.format(name) for name in Images.model_fields},
    "triton": {"defaultRelease": "26.08", "releases": {"26.08": {"image": "nvcr.io/nvidia/tritonserver:26.08-py3"}}},
    "tfserving": {"defaultRelease": "2.20.0", "releases": {"2.20.0": {"image": "docker.io/tensorflow/serving:2.20.0"}}},
    "torchserve": {"defaultRelease": "0.12.0", "releases": {"0.12.0": {"image": IMAGE.format("torchserve")}}},
    "hardwareProfiles": {"cpu": {}},
    "build": {"resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "6Gi"}}},
}
