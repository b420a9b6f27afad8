"""What the bench waits for, when the API server ends its watches."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.operator_bench import world
from bert_operator.api import names


class EndingWatches:
    """Stands in for the API server: what exists is listed, and each watch ends before it has said anything."""

    def __init__(self) -> None:
        self.objects: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.listings: defaultdict[str, int] = defaultdict(int)

    async def request(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"metadata": {"uid": "any"}}

    async def listing(self, path: str, *, whole: bool) -> dict[str, Any]:
        del whole
        self.listings[path] += 1
        return {"metadata": {"resourceVersion": "1"}, "items": self.objects[path] or None}

    @asynccontextmanager
    async def watch(self, path: str, version: str, *, whole: bool) -> AsyncIterator[AsyncIterator[str]]:
        del path, version, whole
        yield self._nothing()

    async def _nothing(self) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        for event in ():
            yield json.dumps(event)

    async def all(self, calls: list[Any]) -> list[Any]:
        return await asyncio.gather(*calls)


async def test_what_a_dropped_watch_did_not_show_is_found_by_listing_again() -> None:
    api = EndingWatches()
    one = world.World(api, "ns")  # type: ignore[arg-type] # what of an Api it needs
    await one.prepare(recorded=False)
    (name,) = await one.create(1)
    while min(map(api.listings.__getitem__, [one.berts, *map(one.path, world.CHILDREN)])) == 0:  # noqa: ASYNC110 - tasks of ours
        await asyncio.sleep(0)
    api.objects[one.berts].append({"metadata": {"name": name}, "status": {"observedGeneration": 1}})
    for plural in world.CHILDREN:
        api.objects[one.path(plural)].append({"metadata": {"name": "child", "labels": {names.INSTANCE_LABEL: name}}})
    await one.until_done([name], 5)
    for task in one._watches:
        task.cancel()
