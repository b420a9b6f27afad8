"""What the bench waits for, when the API server ends its watch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.operator_bench import world


class EndingWatches:
    """Stands in for the API server: what exists is listed, and each watch ends before it has said anything."""

    def __init__(self) -> None:
        self.berts: list[dict[str, Any]] | None = []
        self.listed = asyncio.Event()

    async def request(self, method: str, path: str, *_: Any) -> dict[str, Any]:
        if method == "GET" and path.endswith("bertdeployments"):
            self.listed.set()
            return {"metadata": {"resourceVersion": "1"}, "items": self.berts}
        return {"metadata": {"uid": "any"}}

    @asynccontextmanager
    async def watch(self, path: str, version: str) -> AsyncIterator[AsyncIterator[str]]:
        del path, version
        yield self._nothing()

    async def _nothing(self) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        for line in ():
            yield line

    async def all(self, calls: list[Any]) -> list[Any]:
        return await asyncio.gather(*calls)


async def a_world(api: EndingWatches) -> world.World:
    one = world.World(api, "ns")  # type: ignore[arg-type] # what of an Api it needs
    await one.prepare(recorded=False)
    await api.listed.wait()
    return one


async def test_what_a_dropped_watch_did_not_show_is_found_by_listing_again() -> None:
    api = EndingWatches()
    one = await a_world(api)
    (name,) = await one.create(1)
    api.berts = [{"metadata": {"name": name}, "status": {"observedGeneration": 1}}]
    await one.until_done([name], 5)
    one._watching.cancel()


async def test_a_bench_that_cannot_see_says_so_at_once() -> None:
    api = EndingWatches()
    one = await a_world(api)
    api.berts = None
    with pytest.raises(TypeError):
        await one.until_done(await one.create(1), 60)
