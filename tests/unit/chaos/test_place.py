"""The operator of a plan lives again whenever it was killed."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from chaos.place import Place


class SlowOperator:
    """Takes a moment to start; killed meanwhile, it is dead for good, as the real one is until it is started again."""

    def __init__(self) -> None:
        self.alive = True
        self.starts = 0
        self.starting = asyncio.Event()

    def kill(self) -> None:
        self.alive = False

    async def end(self) -> None:
        self.kill()

    async def start(self, _server: str) -> None:
        self.starts += 1
        self.alive = True
        self.starting.set()
        await asyncio.sleep(0)


async def test_an_operator_that_is_killed_while_it_is_started_anew_is_started_once_more() -> None:
    operator = SlowOperator()
    place = Place(lab=cast("Any", None), namespace="n")
    place.operator, place.proxy = cast("Any", operator), cast("Any", SimpleNamespace(url="u"))
    place.kill()
    await operator.starting.wait()
    place.kill()
    assert place._revival is not None
    await place._revival
    assert operator.alive
    assert (place.kills, operator.starts) == (2, 2)
    place.kill()
    assert place._revival is not None
    await place._revival
    assert (operator.alive, operator.starts) == (True, 3)
