"""A proxy between operator and API server that makes one kind's watch expire, as an API server does after an outage.

While a kind is held its watch is broken off, resuming is answered with "410 Gone", and the listing that follows waits:
time for a test to change the world unseen.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web

from support.kube_api import KubeApi

GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
HOP = ("Host", "Authorization", "Accept-Encoding", "Content-Length", "Transfer-Encoding", "Connection")


class WatchProxy:
    """Plain HTTP in, the real API server out."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._loop = asyncio.new_event_loop()
        self._held: dict[str, asyncio.Event] = {}
        self._streams: dict[str, set[asyncio.Event]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self.listings: list[str] = []
        self.waiting: set[str] = set()
        self.url = ""

    def hold(self, plural: str) -> None:
        asyncio.run_coroutine_threadsafe(self._hold(plural), self._loop).result(5)

    def release(self, plural: str) -> None:
        asyncio.run_coroutine_threadsafe(self._release(plural), self._loop).result(5)

    async def _hold(self, plural: str) -> None:
        self._held[plural] = asyncio.Event()
        for ended in self._streams.get(plural, ()):
            ended.set()

    async def _release(self, plural: str) -> None:
        self._held.pop(plural).set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        plural = request.path.rsplit("/", 1)[-1]
        watch = "watch" in request.query
        if plural in self._held and request.method == "GET":
            if watch:
                return web.Response(text=json.dumps(GONE) + "\n", content_type="application/json")
            self.waiting.add(plural)
            await self._held[plural].wait()
            self.waiting.discard(plural)
        if request.method == "GET" and not watch:
            self.listings.append(plural)
        headers = {key: value for key, value in request.headers.items() if key not in HOP} | self._api._headers
        target = f"{self._api._address.geturl()}{request.path_qs}"
        assert self._session is not None
        body = await request.read() or None
        async with self._session.request(request.method, target, headers=headers, data=body) as reply:
            if not watch:
                return web.Response(body=await reply.read(), status=reply.status, content_type=reply.content_type)
            return await self._stream(request, plural, reply)

    async def _stream(self, request: web.Request, plural: str, reply: aiohttp.ClientResponse) -> web.StreamResponse:
        answer = web.StreamResponse(status=reply.status, headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        ended = asyncio.Event()
        self._streams.setdefault(plural, set()).add(ended)
        if plural in self._held:
            ended.set()  # held while the server was still answering
        ending = asyncio.ensure_future(ended.wait())
        reading = asyncio.ensure_future(reply.content.readany())
        try:
            while True:
                await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
                if ended.is_set() or not reading.result():
                    return answer
                await answer.write(reading.result())
                reading = asyncio.ensure_future(reply.content.readany())
        finally:
            self._streams[plural].discard(ended)
            ending.cancel()
            reading.cancel()
            await asyncio.gather(ending, reading, return_exceptions=True)

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._api._context))
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        for streams in self._streams.values():
            for ended in streams:
                ended.set()
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.sleep(0.25)  # TLS connections close in the background; aiohttp has nothing to wait for

    def serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._stop())
        self._loop.close()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextmanager
def watch_proxy(api: KubeApi) -> Iterator[WatchProxy]:
    """Run one beside the test."""
    proxy, started = WatchProxy(api), threading.Event()
    thread = threading.Thread(target=proxy.serve, args=(started,), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield proxy
    finally:
        proxy.end()
        thread.join(10)
