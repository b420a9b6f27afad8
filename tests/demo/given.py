"""What the user's environment has already. Only the standard library: asked before there is an environment of ours."""

import shutil
from collections.abc import Mapping


def cluster(environment: Mapping[str, str]) -> bool:
    """Whether the user names a cluster to use: its images are the user's as well."""
    return environment.get("USE_EXISTING_CLUSTER") == "1" or bool(environment.get("KUBECONFIG"))


def tools(environment: Mapping[str, str]) -> bool:
    """Whether kubectl and helm are on the user's PATH."""
    return all(shutil.which(tool, path=environment.get("PATH")) for tool in ("kubectl", "helm"))
