"""What the collection of artifacts asks of a cluster: lists of everything in a namespace, marks on records, their end.

`collector` calls it. The lists are fresh on purpose: nothing is removed on the word of a memory.
"""

from typing import Any, Final
from urllib.parse import urlencode

from bert_operator.api import names
from bert_operator.api.observed import Manifest
from bert_operator.cluster.calls import CONFLICT, NOT_FOUND
from bert_operator.cluster.connection import Connection
from bert_operator.cluster.errors import ApiError
from bert_operator.cluster.resources import RESOURCES, path
from bert_operator.usage import World

MERGE: Final = "application/merge-patch+json"
_OURS: Final = f"{names.MANAGED_BY}={names.MANAGER}"


class Stores:
    """Reads and writes about the artifact stores of a cluster."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def records(self, namespace: str) -> list[dict[str, Any]]:
        """Every BertArtifact of a namespace."""
        return await self._list(names.ARTIFACT_KIND, namespace)

    async def claim(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A claim by name, None if there is none."""
        query = urlencode({"fieldSelector": f"metadata.name={name}"})
        return next(iter(await self._list("PersistentVolumeClaim", namespace, query)), None)

    async def world(self, namespace: str) -> World:
        """Everything of a namespace that may refer to an artifact."""
        ours = urlencode({"labelSelector": _OURS})
        return World(
            berts=await self._list(names.KIND, namespace),
            deployments=await self._list("Deployment", namespace, ours),
            replica_sets=await self._list("ReplicaSet", namespace, ours),
            # Anybody's: a pod of the user's own may read an artifact as well.
            pods=await self._list("Pod", namespace),
            jobs=await self._list("Job", namespace, ours),
        )

    async def mark(self, record: Manifest, since: str | None) -> dict[str, Any]:
        """Write on a record since when nothing uses it, or take that away.

        Raises:
            ApiError: a conflict says that it has changed since it was judged.
        """
        meta = record["metadata"]
        same = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        query = urlencode({"fieldManager": names.MANAGER})
        return await self._connection.request(
            "PATCH",
            f"{path(names.ARTIFACT_KIND, meta['namespace'], meta['name'])}?{query}",
            what=f"mark {names.ARTIFACT_KIND} {meta['name']} as {'unused' if since else 'used'}",
            body={"metadata": same | {"annotations": {names.UNUSED_SINCE_ANNOTATION: since}}},
            content_type=MERGE,
        )

    async def withdraw(self, record: Manifest) -> bool:
        """Delete a record.

        Returns:
            Whether it is gone: not if it has changed since it was judged, for then somebody wants it. That it was gone
            already says nothing: the client repeats a deletion whose answer was lost. Who else may have deleted it
            wanted no artifact to stay, and a Job that finds none does no harm.
        """
        meta = record["metadata"]
        same = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        try:
            await self._connection.request(
                "DELETE",
                path(names.ARTIFACT_KIND, meta["namespace"], meta["name"]),
                what=f"delete {names.ARTIFACT_KIND} {meta['name']}",
                body={"preconditions": same},
            )
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise
            return error.status == NOT_FOUND
        return True

    async def _list(self, kind: str, namespace: str, query: str = "") -> list[dict[str, Any]]:
        address = path(kind, namespace) + (f"?{query}" if query else "")
        listed = await self._connection.request("GET", address, what=f"list each {kind} of {namespace}")
        # Objects of a list don't say what they are.
        kinds = {"apiVersion": RESOURCES[kind][0], "kind": kind}
        return [{**kinds, **item} for item in listed["items"]]
