"""kopf with a watch of BertDeployments and no handler that does anything: what the framework alone takes in memory."""

import os
from typing import Any

import kopf
from aiohttp import web


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Say that it is there."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    app = web.Application()
    app.add_routes([web.get("/readyz", _ready), web.get("/metrics", _ready)])
    memo.runner = web.AppRunner(app, access_log=None)
    await memo.runner.setup()
    await web.TCPSite(memo.runner, "127.0.0.1", int(os.environ["BERTOPS_HEALTH_PORT"])).start()


async def _ready(_: web.Request) -> web.Response:
    return web.Response(text="")


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Close the socket."""
    await memo.runner.cleanup()


@kopf.on.event("bertops.dev", "v1alpha1", "bertdeployments")
async def event(**_: Any) -> None:
    """Do nothing."""
