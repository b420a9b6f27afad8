"""Watches that pass through the proxy, and what can be done to them. `proxy` opens them, plans turn the gates."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

GONE: Final[dict[str, Any]] = {
    "type": "ERROR",
    "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"},
}


@dataclass(kw_only=True)
class Stream:
    """One open watch."""

    answer: web.StreamResponse
    held: list[bytes] = field(default_factory=list)
    over: bool = False
    mute: bool = False
    """Nothing more comes through this connection, and it doesn't end."""

    async def show(self, frames: Iterable[bytes]) -> None:
        """Pass frames on; a client that has left ends the watch."""
        try:
            for frame in frames:
                await self.answer.write(frame)
        except (ConnectionError, RuntimeError):
            self.over = True


@dataclass(kw_only=True)
class Gate:
    """What all watches of one resource do with the frames that come."""

    mode: str = "open"
    """open or held (kept for later)."""
    streams: list[Stream] = field(default_factory=list)
    record: list[bytes] | None = None
    """Every frame that came, if anybody wants to read them."""

    async def take(self, stream: Stream, frame: bytes) -> None:
        """A frame has come from the API server."""
        if self.record is not None:
            self.record.append(frame)
        if stream.mute:
            return
        if self.mode == "open":
            await stream.show([frame])
        else:
            stream.held.append(frame)

    def hold(self) -> None:
        """Keep what comes from now on."""
        self.mode = "held"

    def mute(self) -> None:
        """Let nothing more through what is open now, and don't say so; what is opened later works."""
        for stream in self.streams:
            stream.mute = True

    @property
    def kept(self) -> int:
        """Frames that wait."""
        return sum(len(stream.held) for stream in self.streams)

    async def release(self, how: str) -> None:
        """Let the watches go on.

        Args:
            how: `late` shows all that was kept, `latest` only the last state of each object, `gone` throws it away and
                says that the connection can't be resumed.
        """
        self.mode = "open"
        for stream in [*self.streams]:
            kept, stream.held = stream.held, []
            if how == "gone":
                await stream.show([json.dumps(GONE).encode() + b"\n"])
                stream.over = True
            else:
                await stream.show(latest(kept) if how == "latest" else kept)


def is_gone(frame: bytes) -> bool:
    """Whether a frame says that the watch can't go on from where it began."""
    if not frame.startswith(b'{"type":"ERROR"'):
        return False
    return bool(json.loads(frame)["object"].get("code") == GONE["object"]["code"])


def latest(frames: Iterable[bytes]) -> list[bytes]:
    """The last frame of each object, in the order in which those came; what was born meanwhile is added."""
    last: dict[str, dict[str, Any]] = {}
    born: set[str] = set()
    for frame in frames:
        event = json.loads(frame)
        uid = event["object"].get("metadata", {}).get("uid", "")
        born |= {uid} if event["type"] == "ADDED" else set()
        last.pop(uid, None)
        last[uid] = event
    shown = []
    for uid, event in last.items():
        if uid in born and event["type"] == "DELETED":
            continue
        changed = {"type": "ADDED"} if uid in born and event["type"] == "MODIFIED" else {}
        shown.append(json.dumps(event | changed).encode() + b"\n")
    return shown
