"""What a watch shows after having been held."""

import json
from typing import Any

from chaos import streams


def frame(kind: str, uid: str, version: int = 1) -> bytes:
    return json.dumps({"type": kind, "object": {"metadata": {"uid": uid}, "v": version}}).encode()


def shown(*frames: bytes) -> list[tuple[str, str, int]]:
    events: list[dict[str, Any]] = [json.loads(one) for one in streams.latest(frames)]
    return [(one["type"], one["object"]["metadata"]["uid"], one["object"]["v"]) for one in events]


def test_only_the_last_of_each_object_is_shown() -> None:
    assert shown(frame("MODIFIED", "a"), frame("MODIFIED", "b"), frame("MODIFIED", "a", 2)) == [
        ("MODIFIED", "b", 1),
        ("MODIFIED", "a", 2),
    ]


def test_what_was_born_and_died_unseen_never_was() -> None:
    assert shown(frame("ADDED", "a"), frame("DELETED", "a")) == []
    assert shown(frame("ADDED", "a"), frame("MODIFIED", "a", 2)) == [("ADDED", "a", 2)]
