"""The Lease of a release, read and written over a connection of its own. `leadership` calls it, in its own thread."""

from typing import Any, Final

from bert_operator.cluster.connection import Connection
from bert_operator.cluster.errors import ApiError
from bert_operator.cluster.resources import RESOURCES, path
from bert_operator.election import Record

MERGE: Final = "application/merge-patch+json"
NOT_FOUND: Final = 404


class Lease:
    """One Lease: `coordination.k8s.io/v1`, as every election of Kubernetes uses it."""

    def __init__(self, connection: Connection, namespace: str, name: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._name = name

    async def open(self) -> None:
        """Connect; call it in the thread and the event loop of the other calls.

        Raises:
            ConfigurationError: there is no way to the API server.
        """
        await self._connection.open()

    async def close(self) -> None:
        """Close all sockets."""
        await self._connection.close()

    async def read(self) -> Record | None:
        """What it says, None if there is none.

        Raises:
            ApiError: it can't be read.
        """
        try:
            found = await self._connection.request("GET", self._path(self._name), what=f"read {self._what}")
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return _record(found)

    async def write(self, record: Record) -> Record:
        """Create it, or change exactly the version that was read; labels that others put on it stay.

        Returns:
            The record with its new version.

        Raises:
            ApiError: a conflict says that somebody else was faster; read again.
        """
        method, name, content = ("PATCH", self._name, MERGE) if record.version else ("POST", "", "application/json")
        what = f"write {self._what}"
        body = self._body(record)
        return _record(
            await self._connection.request(method, self._path(name), what=what, body=body, content_type=content)
        )

    @property
    def _what(self) -> str:
        return f"Lease {self._namespace}/{self._name}"

    def _path(self, name: str) -> str:
        return path("Lease", self._namespace, name)

    def _body(self, record: Record) -> dict[str, Any]:
        metadata = {"name": self._name, "namespace": self._namespace}
        return {
            "apiVersion": RESOURCES["Lease"][0],
            "kind": "Lease",
            "metadata": metadata | ({"resourceVersion": record.version} if record.version else {}),
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": int(record.duration),
                "leaseTransitions": record.transitions,
                "acquireTime": record.acquired,
                "renewTime": record.renewed,
            },
        }


def _record(lease: dict[str, Any]) -> Record:
    """What it says; whoever made it may have left out anything."""
    spec = lease.get("spec") or {}
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration=float(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        version=lease["metadata"]["resourceVersion"],
    )
