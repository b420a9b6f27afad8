"""How this machine reaches Python packages (certificates, index), handed on to builds; nothing of it stays in an image.

The engines call it.
"""

import os
from collections.abc import Mapping
from typing import Final

_INSIDE: Final = "/run/ca.crt"


def build_arguments(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Options of `docker build` and `buildah bud`; none on a machine that needs nothing special."""
    options: list[str] = []
    if bundle := environment.get("PIP_CERT"):
        options += [f"--secret=id=ca,src={bundle}", f"--build-arg=PIP_CERT={_INSIDE}"]
    if index := environment.get("PIP_INDEX_URL"):
        options.append(f"--build-arg=PIP_INDEX_URL={index}")
    return options
