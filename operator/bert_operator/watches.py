"""How the watches are doing: what each has listed, when it last said anything, what vanished between two listings.

`handlers` reports every raw event here before it is handled; `health` asks how fresh the view is. It holds names and
UIDs only, and changes nothing.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class _Stream:
    """One kind in one namespace, or in all."""

    kind: str
    namespace: str | None
    known: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """uid -> (apiVersion, namespace, name) of everything it has shown and not ended."""
    heard_at: float | None = None
    listed: bool = False


class Listing:
    """One listing and the watch after it; over when the connection can't be resumed and all is listed again."""

    def __init__(self, stream: _Stream, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._fresh: set[str] | None = set()
        self.kind = stream.kind
        self.started = clock()

    def heard(self, event_type: str | None, obj: Mapping[str, Any]) -> None:
        """Something arrived: an object, or a bookmark that says the connection lives."""
        self._stream.heard_at = self._clock()
        metadata = obj.get("metadata") or {}
        uid = metadata.get("uid")
        if not uid or event_type == "BOOKMARK":
            return
        if event_type == "DELETED":
            self._stream.known.pop(uid, None)
            return
        self._stream.known[uid] = (obj.get("apiVersion", ""), metadata.get("namespace", ""), metadata.get("name", ""))
        if self._fresh is not None:
            self._fresh.add(uid)

    def complete(self, written: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """The listing is in: whatever was known before and isn't in it was deleted while nobody watched.

        Args:
            written: objects that only our own writes have shown, all before this listing began.

        Returns:
            Stubs of the vanished objects.
        """
        stream, fresh = self._stream, self._fresh or set()
        stream.heard_at, stream.listed, self._fresh = self._clock(), True, None
        for obj in written:
            metadata = obj["metadata"]
            if stream.namespace in (None, metadata.get("namespace")):
                stream.known.setdefault(
                    metadata["uid"], (obj.get("apiVersion", ""), metadata.get("namespace", ""), metadata["name"])
                )
        gone = {uid: stream.known.pop(uid) for uid in [*stream.known] if uid not in fresh}
        return [_stub(stream.kind, uid, *rest) for uid, rest in gone.items()]


class Watches:
    """All watches of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._streams: dict[tuple[str, str | None], _Stream] = {}

    def begin(self, kind: str, namespace: str | None) -> Listing:
        """A listing of this kind begins."""
        stream = self._streams.setdefault((kind, namespace), _Stream(kind=kind, namespace=namespace))
        return Listing(stream, self._clock)

    def unlisted(self, kinds: Iterable[str]) -> list[str]:
        """Kinds that were not listed to the end yet."""
        listed = {stream.kind for stream in self._streams.values() if stream.listed}
        pending = {stream.kind for stream in self._streams.values() if not stream.listed}
        return [kind for kind in kinds if kind not in listed or kind in pending]

    def ages(self) -> dict[str, float]:
        """Seconds since each kind's quietest watch said anything; the server sends bookmarks about every 60 s."""
        now, ages = self._clock(), dict[str, float]()
        for stream in self._streams.values():
            age = float("inf") if stream.heard_at is None else now - stream.heard_at
            ages[stream.kind] = max(ages.get(stream.kind, 0.0), age)
        return ages


def _stub(kind: str, uid: str, api_version: str, namespace: str, name: str) -> dict[str, Any]:
    metadata = {"uid": uid, "namespace": namespace, "name": name}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
