"""What the operator may do to a cluster, one function per verb of the `Plan`. `reconcile` calls them.

Each is safe to repeat, and none touches an object that isn't the one that was looked at: updates and deletes name the
UID, a new object is applied only under a name that was found free.
"""

import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from bert_operator.api import names
from bert_operator.api.actions import Adoption, Departure, Hold, Note, Ref
from bert_operator.api.observed import Manifest
from bert_operator.cluster.connection import Connection
from bert_operator.cluster.errors import ApiError
from bert_operator.cluster.resources import RESOURCES, path

logger = logging.getLogger(__name__)

MANAGER: Final = names.MANAGER
STATUS_MANAGER: Final = f"{names.MANAGER}-status"
APPLY: Final = "application/apply-patch+yaml"
STRATEGIC_MERGE: Final = "application/strategic-merge-patch+json"
NOT_FOUND: Final = 404
CONFLICT: Final = 409
NO_OBJECT: Final = "1"
NOTE_LIMIT: Final = 1024
"""Longest text the API server takes in an Event, in bytes of UTF-8."""
TOLD: Final = 1000
"""How many Events are remembered as told."""
NOTE_SECONDS: Final = 600
"""The same Event is not repeated within this time, restarts included."""
REFUSED_JOBS: Final = 10_000
"""Of how many Jobs it is remembered why they get no pod."""
REFUSED_SECONDS: Final = 50.0
"""How long it is remembered why a Job gets no pod, or that nothing is said: less than between two looks of `plan`."""


class Cluster:
    """Writes to one cluster, and the few reads that no watch answers."""

    def __init__(self, connection: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._told: dict[str, None] = {}
        self._refused: dict[str, tuple[float, str]] = {}
        """UID of a Job -> when Events were asked, and why it gets no pod."""

    async def apply(self, manifest: Manifest) -> dict[str, Any]:
        """Server-side apply one child.

        Args:
            manifest: with metadata.uid it changes that very object or nothing; without it, it is new.

        Returns:
            The object as it is now.

        Raises:
            ApiError: a conflict says that the object is another one by now, or that a plain name is taken.
        """
        kind, namespace, name = _address(manifest)
        query = urlencode({"fieldManager": MANAGER, "force": "true"})
        try:
            return await self._connection.request(
                "PATCH",
                f"{path(kind, namespace, name)}?{query}",
                what=f"apply {kind} {name}",
                body=_guarded(manifest),
                content_type=APPLY,
            )
        except ApiError as error:
            if "metadata.uid" in error.fields:
                raise ApiError(status=CONFLICT, reason="Replaced", message=error.message, what=error.what) from error
            raise

    async def hold(self, namespace: str, hold: Hold) -> dict[str, Any]:
        """Say, or cease to say, a Deployment's replica count under the second field manager.

        Raises:
            ApiError: a conflict says that somebody else has set another count, or that it is another object by now.
        """
        query = urlencode({"fieldManager": names.REPLICAS_MANAGER} | ({"force": "true"} if hold.force else {}))
        metadata = {"name": hold.name, "namespace": namespace, "uid": hold.uid}
        return await self._connection.request(
            "PATCH",
            f"{path('Deployment', namespace, hold.name)}?{query}",
            what=f"{'let go of' if hold.count is None else 'hold'} the replicas of Deployment {hold.name}",
            body={"apiVersion": RESOURCES["Deployment"][0], "kind": "Deployment", "metadata": metadata}
            | ({} if hold.count is None else {"spec": {"replicas": hold.count}}),
            content_type=APPLY,
        )

    async def create(self, manifest: Manifest) -> dict[str, Any] | None:
        """POST one object.

        Returns:
            The object, or None if that name was taken already: somebody asked for the same thing before.
        """
        kind, namespace, name = _address(manifest)
        query = urlencode({"fieldManager": MANAGER})
        try:
            return await self._connection.request(
                "POST", f"{path(kind, namespace)}?{query}", what=f"create {kind} {name}", body=manifest
            )
        except ApiError as error:
            if error.status == CONFLICT and error.reason == "AlreadyExists":
                return None
            raise

    async def adopt(self, namespace: str, adoption: Adoption) -> dict[str, Any]:
        """Add an owner reference; the list merges by UID, so nobody else's is touched."""
        query = urlencode({"fieldManager": MANAGER})
        return await self._connection.request(
            "PATCH",
            f"{path(adoption.kind, namespace, adoption.name)}?{query}",
            what=f"adopt {adoption.kind} {adoption.name}",
            body={"metadata": {"uid": adoption.uid, "ownerReferences": [dict(adoption.owner_reference)]}},
            content_type=STRATEGIC_MERGE,
        )

    async def leave(self, namespace: str, departure: Departure) -> dict[str, Any] | None:
        """Take one owner reference away.

        Returns:
            The object as it is now, None if it is gone.

        Raises:
            ApiError: a conflict says that the object has changed since it was judged; judge again.
        """
        query = urlencode({"fieldManager": MANAGER})
        gone = {"$patch": "delete", "uid": departure.owner_uid}
        metadata = {"uid": departure.uid, "resourceVersion": departure.resource_version, "ownerReferences": [gone]}
        try:
            return await self._connection.request(
                "PATCH",
                f"{path(departure.kind, namespace, departure.name)}?{query}",
                what=f"leave {departure.kind} {departure.name}",
                body={"metadata": metadata},
                content_type=STRATEGIC_MERGE,
            )
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def delete(self, namespace: str, ref: Ref) -> dict[str, Any] | None:
        """Delete exactly this object and, in the background, what it owns.

        Returns:
            The object if it lingers (finalizers, grace periods), None if it is gone or was replaced.

        Raises:
            ApiError: it is still there.
        """
        try:
            reply = await self._connection.request(
                "DELETE",
                path(ref.kind, namespace, ref.name),
                what=f"delete {ref.kind} {ref.name}",
                body={"preconditions": {"uid": ref.uid}, "propagationPolicy": "Background"},
            )
        except ApiError as error:
            # A conflict for any other reason deletes nothing: what is taken for gone is never looked at again.
            replaced = error.status == CONFLICT and "precondition" in error.message.lower()
            if replaced or error.status == NOT_FOUND:
                return None
            raise
        return reply if (reply.get("metadata") or {}).get("deletionTimestamp") else None

    async def write_status(self, bert: Manifest, status: Manifest) -> dict[str, Any]:
        """Replace our status of a BertDeployment, if it is still the object that was judged.

        Raises:
            ApiError: a conflict says that it has changed since; judge again.
        """
        metadata = bert["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        query = urlencode({"fieldManager": STATUS_MANAGER, "force": "true"})
        return await self._connection.request(
            "PATCH",
            f"{path(names.KIND, namespace, name, 'status')}?{query}",
            what=f"write the status of {names.KIND} {name}",
            body={
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "uid": metadata["uid"],
                    "resourceVersion": metadata["resourceVersion"],
                },
                "status": dict(status),
            },
            content_type=APPLY,
        )

    async def tell(self, bert: Manifest, note: Note, now: datetime | None = None) -> None:
        """Post an Event about a BertDeployment, but not the same one twice within ten minutes."""
        now = now or datetime.now(UTC)
        event = _event(bert, note, now)
        name = event["metadata"]["name"]
        if name in self._told:
            return
        if await self.create(event) is not None:
            self._told[name] = None
        if len(self._told) > TOLD:
            del self._told[next(iter(self._told))]

    async def api_is_served(self) -> bool:
        """Whether the API server knows our kinds; false while their CRDs are missing or still being taken in.

        Raises:
            ApiError: it can't be asked.
        """
        try:
            found = await self._connection.request("GET", f"/apis/{names.API_VERSION}", what="look for our kinds")
        except ApiError as error:
            if error.status == NOT_FOUND:
                return False
            raise
        return {names.PLURAL, names.ARTIFACT_PLURAL} <= {item["name"] for item in found["resources"]}

    async def refused_pods(self, namespace: str, jobs: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Why Jobs get no pod, as the Job controller says it in Events.

        One list answers for all of them, and each answer is kept for a while. If Events can't be read, what was known
        stays: nothing else depends on it.

        Args:
            namespace: where.
            jobs: (name, UID) of each.

        Returns:
            UID -> the newest reason; nothing of a Job that nothing is said about.
        """
        uids, now = [uid for _, uid in jobs], self._clock()
        asked = (self._refused[uid][0] if uid in self._refused else float("-inf") for uid in uids)
        if now - min(asked, default=now) >= REFUSED_SECONDS:
            told = await self._failed_creates(namespace)
            for uid in uids:
                known = self._refused.pop(uid, (now, ""))[1]
                self._refused[uid] = (now, known if told is None else told.get(uid, ""))
            for uid in list(self._refused)[:-REFUSED_JOBS]:
                del self._refused[uid]
        return {uid: why for uid in uids if (why := self._refused.get(uid, (now, ""))[1])}

    async def _failed_creates(self, namespace: str) -> dict[str, str] | None:
        """UID of a Job -> why its pod can't be made; None if Events can't be read."""
        query = urlencode({"fieldSelector": "reason=FailedCreate,regarding.kind=Job"})
        what = f"read why Jobs in {namespace} get no pod"
        try:
            listed = await self._connection.request("GET", f"{path('Event', namespace)}?{query}", what=what)
        except ApiError as error:
            logger.warning("%s", error)
            return None
        events = sorted(listed["items"], key=_told_at)
        return {str(event["regarding"].get("uid")): str(event.get("note") or "") for event in events}

    async def foreign(
        self, namespace: str, owner_uid: str, wanted: Iterable[tuple[str, str]]
    ) -> tuple[frozenset[tuple[str, str]], tuple[dict[str, Any], ...]]:
        """Look whether names we need are taken.

        Args:
            namespace: where.
            owner_uid: UID of the BertDeployment that needs them.
            wanted: (kind, name) pairs.

        Returns:
            Those taken by others, and the objects found to be ours after all.
        """
        taken, ours = set(), []
        for kind, name in wanted:
            try:
                found = await self._connection.request("GET", path(kind, namespace, name), what=f"get {kind} {name}")
            except ApiError as error:
                if error.status == NOT_FOUND:
                    continue
                raise
            if owned_by(found, owner_uid):
                # Lists and single objects alike must say what they are.
                ours.append({"kind": kind, **found})
            else:
                taken.add((kind, name))
        return frozenset(taken), tuple(ours)


def _told_at(event: Manifest) -> str:
    """When an Event was last seen, RFC 3339 in UTC: as text it compares as time."""
    series = event.get("series") or {}
    moments = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    return next((str(moment) for moment in moments if moment), "")


def owned_by(obj: Manifest, uid: str) -> bool:
    """Whether an object names this UID as an owner: the only proof that counts, since labels are easily copied."""
    return any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences") or ())


def _address(manifest: Manifest) -> tuple[str, str, str]:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata["namespace"], metadata["name"]


def _guarded(manifest: Manifest) -> dict[str, Any]:
    """Make applying under a plain name create or fail, but never change what somebody put there a moment ago.

    No object has resourceVersion 1, and the API server ignores it where there is no object yet. A name that ends in
    digits of the owner's UID is nobody else's, so that an object of ours that lost its owner reference is mended.
    But an autoscaler's is: `kubectl autoscale` gives it the name of the Deployment.
    """
    metadata = manifest["metadata"]
    owner = (metadata.get("labels") or {}).get(names.OWNER_LABEL)
    ours = bool(owner) and metadata["name"].endswith(f"-{owner}") and manifest["kind"] != "HorizontalPodAutoscaler"
    if metadata.get("uid") or ours:
        return dict(manifest)
    return {**manifest, "metadata": {**metadata, "resourceVersion": NO_OBJECT}}


def _event(bert: Manifest, note: Note, now: datetime) -> dict[str, Any]:
    metadata: Mapping[str, Any] = bert["metadata"]
    moment = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
    said = f"{metadata['uid']}/{note.type}/{note.reason}/{note.message}/{int(now.timestamp()) // NOTE_SECONDS}"
    name = f"{metadata['name']}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "eventTime": moment,
        "type": note.type,
        "reason": note.reason,
        "note": _shortened(note.message),
        "action": "Reconcile",
        "reportingController": f"{names.GROUP}/{MANAGER}",
        "reportingInstance": os.environ.get("HOSTNAME") or socket.gethostname(),
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }


def _shortened(text: str) -> str:
    raw = text.encode()
    if len(raw) <= NOTE_LIMIT:
        return text
    return raw[: NOTE_LIMIT - len("…".encode())].decode(errors="ignore") + "…"
