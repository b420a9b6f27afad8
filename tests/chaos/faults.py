"""Which request meets which fault. Pure: `proxy` asks for each request and does what is answered."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.calls import Call

REASONS: Final = {409: "Conflict", 410: "Expired", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError"}
ERRORS: Final = ("409", "422", "429", "500", "drop", "cut", "silent")
"""Faults of a single request, as plans name them."""
RETRY_AFTER: Final = 2
"""Seconds that a 429 asks for."""
GIVE_UP: Final = 75.0
"""Seconds after which a request that nobody answers is broken off: longer than any client of ours waits."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What becomes of one request.

    `answer`: the server doesn't see it, the client gets `code`. `drop`: the connection breaks before the server sees
    it. `cut`: it is carried out, and the connection breaks before the reply. `silent`: it is never answered, and the
    server doesn't see it. `delay`: it arrives late. `kill before`: it is carried out and the operator is killed before
    it gets the reply. `kill after`: it gets the reply, and is killed as soon as it acts upon it.
    """

    what: str
    code: int = 0
    retry_after: int = 0
    seconds: float = 0.0


def error(word: str) -> Fault:
    """The fault that a plan names by one of `ERRORS`."""
    if word.isdecimal():
        code = int(word)
        return Fault(what="answer", code=code, retry_after=RETRY_AFTER if code == 429 else 0)
    return Fault(what=word, seconds=GIVE_UP if word == "silent" else 0.0)


def status(fault: Fault) -> dict[str, Any]:
    """The body of an answer."""
    details = {"retryAfterSeconds": fault.retry_after} if fault.retry_after else {}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": fault.code,
        "reason": REASONS[fault.code],
        "message": "the fault campaign refuses this request",
        "details": details,
    }


@dataclass(kw_only=True)
class OnKind:
    """A fault for the first requests of one kind."""

    kind: str
    fault: Fault
    times: int = 1
    met: int = 0

    def decide(self, call: Call, write: int) -> Fault | None:  # noqa: ARG002 - every rule is asked the same
        """The fault, if this is such a request."""
        if self.met >= self.times or call.kind != self.kind:
            return None
        self.met += 1
        return self.fault


@dataclass(kw_only=True)
class OnWrite:
    """A fault for the write of one number, counted from 1 since the plan began to count."""

    number: int
    fault: Fault
    met: int = 0

    def decide(self, call: Call, write: int) -> Fault | None:
        """The fault, if this is that write."""
        if self.met or not call.writes or write != self.number:
            return None
        self.met = 1
        return self.fault


@dataclass(kw_only=True)
class Weather:
    """Faults by chance, the same for the same seed and the same order of requests."""

    seed: int
    share: float = 0.15
    """Of the requests that meet one."""
    kills: float = 0.05
    """Of the writes after which the operator is killed."""
    met: int = 0
    dice: random.Random = field(init=False)
    _errors: Sequence[str] = ("409", "422", "429", "500", "drop", "cut")
    _reads: Sequence[str] = ("429", "500", "drop", "cut")

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)  # noqa: S311 - dice, not secrets

    def decide(self, call: Call, write: int) -> Fault | None:  # noqa: ARG002 - every rule is asked the same
        """Throw the dice."""
        luck, pick, late = self.dice.random(), self.dice.random(), self.dice.random()
        if not call.resource or call.resource == "leases":
            return None
        if call.writes and luck < self.kills:
            self.met += 1
            return Fault(what="kill before" if pick < 0.5 else "kill after")
        if luck >= self.kills + self.share:
            return None
        self.met += 1
        words = self._errors if call.writes else self._reads
        chosen = [*words, "delay"][int(pick * (len(words) + 1))]
        return Fault(what="delay", seconds=round(2 * late, 2)) if chosen == "delay" else error(chosen)


Rule = OnKind | OnWrite | Weather


def decided(rules: Iterable[Rule], call: Call, write: int) -> Fault | None:
    """The first rule's that has one."""
    return next((fault for rule in rules if (fault := rule.decide(call, write))), None)
