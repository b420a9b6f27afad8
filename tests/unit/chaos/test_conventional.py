"""R14 in the campaign: what is compared with what."""

import json
from typing import Any

from chaos import conventional


def bert(ready: str, moved: int, written: int = 50, generation: int = 1) -> dict[str, Any]:
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "AllServed",
        "message": "",
        "lastTransitionTime": f"2026-01-01T00:00:{moved:02}Z",
        "observedGeneration": 1,
    }
    owned: dict[str, Any] = {"f:status": {"f:conditions": {'k:{"type":"Ready"}': {}}}}
    entry = {"subresource": "status", "time": f"2026-01-01T00:00:{written:02}Z", "fieldsV1": owned}
    metadata = {"name": "minilm", "uid": "u", "generation": generation, "managedFields": [entry]}
    return {"metadata": metadata, "spec": {"a": 1}, "status": {"observedGeneration": 1, "conditions": [condition]}}


def wrong(*states: dict[str, Any]) -> list[str]:
    shown = [one | {"metadata": one["metadata"] | {"resourceVersion": str(n)}} for n, one in enumerate(states, 9)]
    # As if two watches had told all of it, the second one late.
    frames = [json.dumps({"type": "MODIFIED", "object": one}).encode() for one in (*shown, *shown)]
    return conventional.on_the_way(conventional.changes(frames))


def test_a_flip_moves_the_time() -> None:
    assert wrong(bert("False", 10), bert("True", 50)) == []
    assert len(wrong(bert("False", 10), bert("True", 10))) == 1


def test_there_and_back_is_two_flips_and_nothing_else_moves_the_time() -> None:
    assert wrong(bert("True", 10), bert("False", 20, written=20), bert("True", 50)) == []
    assert len(wrong(bert("True", 10), bert("True", 50))) == 1


def test_two_flips_in_one_second_have_one_time() -> None:
    assert wrong(bert("False", 50), bert("True", 50)) == []


def test_what_is_said_at_rest_is_of_the_last_generation() -> None:
    assert conventional.at_rest([bert("True", 10)]) == []
    assert conventional.at_rest([bert("True", 10, generation=2)]) != []
