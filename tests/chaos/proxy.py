"""The proxy between one operator and the real API server: plain HTTP in, TLS out, the operator's own token throughout.

It counts and names every request, asks the rules what becomes of it, and keeps a trace. It runs in the campaign's own
event loop, so a plan changes it by plain calls.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import aiohttp
from aiohttp import web

from chaos import faults, streams
from chaos.api import OBJECT_LIMIT
from chaos.calls import Call, named
from chaos.streams import Gate, Stream

_HOP: Final = frozenset({"host", "accept-encoding", "content-length", "transfer-encoding", "connection"})
_SILENT: Final = logging.getLogger("chaos.proxy")
"""aiohttp has a word for every connection that ends too early, and here that is the point."""
_SILENT.disabled = True
AFTER_REPLY: Final = 0.2
"""Seconds within which an operator acts upon a reply; killed then in any case."""


@dataclass(kw_only=True)
class Exchange:
    """One request in the trace."""

    call: Call
    write: int
    """Which write it is since the count began; of a read, how many came before."""
    at: float
    status: int = 0
    """0: no reply was given."""
    fault: str = ""
    uid: str = ""
    """Of the object that a write answered with."""
    owners: tuple[str, ...] = ()
    name: str = ""


@dataclass(kw_only=True)
class Proxy:
    """One operator's only way to the API server."""

    target: str
    session: aiohttp.ClientSession
    kill: Callable[[], None]
    """Kills the operator at once."""
    rules: list[faults.Rule] = field(default_factory=list)
    trace: list[Exchange] = field(default_factory=list)
    writes: int = 0
    asked: int = 0
    """Requests, other than watches."""
    url: str = ""
    down: bool = False
    """Nothing listens, as far as the operator can tell."""
    gone: int = 0
    """Watches that the API server itself has answered with 410."""
    stale: dict[str, bytes] = field(default_factory=dict)
    """resource -> the listing that is shown instead of the present; watches say nothing new meanwhile."""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    """Each as the API server answered its creation: those that end well are deleted, and only this tells of them."""
    busy_at: float = 0.0
    """When a request that an operator at rest doesn't send last came or went."""
    _open: int = 0
    _doomed: bool = False
    _gates: dict[str, Gate] = field(default_factory=lambda: defaultdict(Gate))
    _caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    _reachable: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.ServerRunner | None = None
    _listings: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    """resource -> address and headers of the operator's last listing."""

    async def start(self) -> None:
        """Listen on a free port."""
        self._caught_up.set()
        self._reachable.set()
        self.busy_at = time.monotonic()
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None, logger=_SILENT), shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Break everything off."""
        self.end_watches()
        self._caught_up.set()
        self._reachable.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def told(self) -> str:
        """The trace in words, a line for each request about objects."""
        first = self.trace[0].at if self.trace else 0.0
        lines = (
            f"{one.at - first:8.2f} {one.write:4} {one.status:3} {one.fault:12} {one.call.kind} {one.name}\n"
            for one in self.trace
            if one.call.resource
        )
        return "".join(lines)

    @property
    def gates(self) -> dict[str, Gate]:
        """Those of all resources that are watched."""
        return dict(self._gates)

    def vanish(self) -> None:
        """From now on nothing gets through, and nobody is told: a network that swallows packets."""
        self._reachable.clear()
        for gate in self._gates.values():
            gate.mute()

    def appear(self) -> None:
        """The network is back; what was open before stays dead."""
        self._reachable.set()

    def gate(self, resource: str) -> Gate:
        """The gate of one resource's watches."""
        return self._gates[resource]

    def count_anew(self) -> None:
        """The next write is number 1, and the trace begins here."""
        self.writes = 0
        self.trace.clear()

    def end_watches(self) -> None:
        """Break all watches off, as a server that goes away does."""
        for gate in self._gates.values():
            for stream in gate.streams:
                stream.over = True

    async def remember(self, *resources: str) -> dict[str, bytes]:
        """Listings of these as the API server gives them now, for `turn_back`."""
        past = {}
        for resource in resources:
            address, headers = self._listings[resource]
            async with self.session.get(self.target + address, headers=headers) as reply:
                past[resource] = await reply.read()
        return past

    def turn_back(self, listings: dict[str, bytes]) -> None:
        """Show the past from now on: an API server that lags behind."""
        self.stale = dict(listings)
        self._caught_up.clear()

    def catch_up(self) -> None:
        """The present again: watches that began in the past go on from there."""
        self.stale = {}
        self._caught_up.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        query = dict(request.query)
        call = named(request.method, request.path, query, request.headers.get("Content-Type", ""))
        body = await request.read()
        if call.verb == "create":
            call = replace(call, name=_name_in(body))
        if self.down or self._finish_off(call):
            return self._broken(request)
        if not self._reachable.is_set():
            await self._reachable.wait()
            return self._broken(request)
        self.writes += call.writes
        exchange = Exchange(call=call, write=self.writes, at=time.monotonic(), name=call.name)
        self.trace.append(exchange)
        if call.quiet:
            return await self._carry(request, exchange, body)
        self._open += 1
        self.asked += 1
        self.busy_at = time.monotonic()
        try:
            return await self._carry(request, exchange, body)
        finally:
            self._open -= 1
            self.busy_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Since when the operator has asked for nothing."""
        return 0.0 if self._open else time.monotonic() - self.busy_at

    def _finish_off(self, call: Call) -> bool:
        """Whether this request is the first after the reply that was to be the last."""
        if self._doomed and call.verb != "watch":
            self._kill()
            return True
        return False

    def _kill(self) -> None:
        if self._doomed:
            self._doomed = False
            self.kill()

    async def _carry(self, request: web.BaseRequest, exchange: Exchange, body: bytes) -> web.StreamResponse:
        fault = faults.decided(self.rules, exchange.call, exchange.write)
        if fault is None:
            return await self._forward(request, exchange, body)
        exchange.fault = fault.what if fault.what != "answer" else str(fault.code)
        match fault.what:
            case "answer":
                exchange.status = fault.code
                headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
                return web.json_response(faults.status(fault), status=fault.code, headers=headers)
            case "drop":
                return self._broken(request)
            case "silent":
                await asyncio.sleep(fault.seconds)
                return self._broken(request)
            case "delay":
                await asyncio.sleep(fault.seconds)
                return await self._forward(request, exchange, body)
            case "cut":
                return await self._cut(request, exchange, body)
            case "kill before":
                await self._ask(request, exchange, body)
                self.kill()
                return self._broken(request)
            case _:
                return await self._kill_after(request, exchange, body)

    async def _cut(self, request: web.BaseRequest, exchange: Exchange, body: bytes) -> web.StreamResponse:
        """Lose the reply to what was carried out. A watch's never ends: to wait for it would be R8's silence."""
        if exchange.call.verb != "watch":
            await self._ask(request, exchange, body)
        return self._broken(request)

    async def _kill_after(self, request: web.BaseRequest, exchange: Exchange, body: bytes) -> web.StreamResponse:
        answer = await self._forward(request, exchange, body)
        await answer.prepare(request)
        await answer.write_eof()
        self._doomed = True
        asyncio.get_running_loop().call_later(AFTER_REPLY, self._kill)
        return answer

    async def _forward(self, request: web.BaseRequest, exchange: Exchange, body: bytes) -> web.StreamResponse:
        call = exchange.call
        if call.verb == "watch":
            return await self._watch(request, exchange)
        if call.verb == "list" and call.resource in self.stale:
            exchange.fault, exchange.status = "stale", 200
            return web.Response(body=self.stale[call.resource], content_type="application/json")
        status, kind, retry, payload = await self._ask(request, exchange, body)
        if call.verb == "list" and status == 200:
            self._listings[call.resource] = request.path_qs, _passed(request)
        headers = {"Retry-After": retry} if retry else {}
        return web.Response(body=payload, status=status, content_type=kind, headers=headers)

    async def _ask(self, request: web.BaseRequest, exchange: Exchange, body: bytes) -> tuple[int, str, str, bytes]:
        """Status, content type, Retry-After and body of what the API server says."""
        async with self.session.request(
            request.method, self.target + request.path_qs, data=body or None, headers=_passed(request)
        ) as reply:
            payload = await reply.read()
            exchange.status = reply.status
            if exchange.call.writes and reply.status < 400:
                said = json.loads(payload)
                _remember(exchange, said)
                self.jobs += [said] if exchange.call.kind == "create jobs" else []
            return reply.status, reply.content_type, reply.headers.get("Retry-After", ""), payload

    async def _watch(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        if exchange.call.resource in self.stale:
            exchange.fault = "stale"
            await self._caught_up.wait()
        url = self.target + request.path_qs
        async with self.session.get(url, headers=_passed(request), read_bufsize=OBJECT_LIMIT) as reply:
            exchange.status = reply.status
            if reply.status != 200:
                self.gone += reply.status == streams.GONE["object"]["code"]
                return web.Response(body=await reply.read(), status=reply.status, content_type=reply.content_type)
            answer = web.StreamResponse(headers={"Content-Type": "application/json"})
            await answer.prepare(request)
            gate, stream = self._gates[exchange.call.resource], Stream(answer=answer)
            gate.streams.append(stream)
            try:
                await self._pass_on(reply, gate, stream)
            finally:
                gate.streams.remove(stream)
            return answer

    async def _pass_on(self, reply: aiohttp.ClientResponse, gate: Gate, stream: Stream) -> None:
        reading = asyncio.ensure_future(reply.content.readline())
        try:
            while not stream.over:
                await asyncio.wait({reading}, timeout=0.25)
                if not reading.done():
                    continue
                frame = reading.result()
                if not frame:
                    return
                reading = asyncio.ensure_future(reply.content.readline())
                self.gone += streams.is_gone(frame)
                await gate.take(stream, frame)
        except aiohttp.ClientError:
            return
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError):
                await reading

    @staticmethod
    def _broken(request: web.BaseRequest) -> web.StreamResponse:
        """No reply: the connection just ends."""
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)


def _passed(request: web.BaseRequest) -> dict[str, str]:
    return {key: value for key, value in request.headers.items() if key.lower() not in _HOP}


def _name_in(body: bytes) -> str:
    try:
        return str(json.loads(body)["metadata"]["name"])
    except (ValueError, KeyError, TypeError):
        return ""


def _remember(exchange: Exchange, reply: dict[str, Any]) -> None:
    """What a write was about, as the server answered it; a deletion answers with the object or with its UID alone."""
    metadata = reply.get("metadata") or {}
    details = reply.get("details") or {}
    exchange.uid = str(metadata.get("uid") or details.get("uid") or "")
    exchange.name = str(metadata.get("name") or details.get("name") or exchange.call.name)
    exchange.owners = tuple(owner["uid"] for owner in metadata.get("ownerReferences") or ())
