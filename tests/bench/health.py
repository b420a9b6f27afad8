"""The health endpoint of the programs that the operator is measured beside."""

import os

from aiohttp import web


async def ready() -> web.AppRunner:
    """Answer `/readyz` and `/metrics` on the port of BERTOPS_HEALTH_PORT; clean up what it returns."""
    app = web.Application()
    app.add_routes([web.get(path, _ready) for path in ("/readyz", "/metrics")])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["BERTOPS_HEALTH_PORT"])).start()
    return runner


async def _ready(_: web.Request) -> web.Response:
    return web.Response()
