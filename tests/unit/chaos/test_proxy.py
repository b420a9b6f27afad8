"""The proxy makes exactly the trouble that it was told to make."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from chaos.faults import OnKind, error
from chaos.proxy import Proxy


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Before a server whose watches never say anything."""

    async def silent(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await asyncio.Event().wait()
        return answer

    app = web.Application()
    app.add_routes([web.get("/{path:.*}", silent)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        made = Proxy(target=f"http://127.0.0.1:{port}", session=session, kill=lambda: None)
        await made.start()
        yield made
        await made.stop()
    await runner.cleanup()


@pytest.mark.parametrize("what", ["drop", "cut"])
async def test_a_watch_that_is_lost_ends_at_once(proxy: Proxy, what: str) -> None:
    """One that stayed open without a word would be noticed after a minute only, which is another fault."""
    proxy.rules = [OnKind(kind="watch pods", fault=error(what), times=9)]
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientError):
            async with asyncio.timeout(20):
                await client.get(f"{proxy.url}/api/v1/namespaces/n/pods?watch=true")
    assert {(one.call.kind, one.fault) for one in proxy.trace} == {("watch pods", what)}
