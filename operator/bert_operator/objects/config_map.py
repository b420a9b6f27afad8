"""The generated server configuration as one immutable ConfigMap, named by its content."""

from collections.abc import Mapping
from typing import Any

from bert_operator.api import names
from bert_operator.api.digests import digest
from bert_operator.objects.identity import Identity
from bert_operator.servers.base import ConfigFile


def content_hash(files: Mapping[str, ConfigFile]) -> str:
    """Ten hex digits that name this content."""
    return digest({path: file.text for path, file in files.items()})[:10]


def manifest(identity: Identity, files: Mapping[str, ConfigFile]) -> dict[str, Any]:
    """ConfigMap with every generated file.

    Args:
        identity: who owns it.
        files: absolute path in the server's pod -> file.
    """
    content = content_hash(files)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": identity.config_name(content),
            "namespace": identity.namespace,
            "labels": identity.labels("config") | {names.CONFIG_LABEL: content},
            "ownerReferences": [identity.owner_reference(controller=True)],
        },
        "immutable": True,
        "data": {file.key: file.text for _, file in sorted(files.items())},
    }
