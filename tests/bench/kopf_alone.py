"""kopf with a watch of BertDeployments and no handler that does anything: what the framework alone takes in memory."""

from typing import Any

import kopf

from bench.health import ready


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Say that it is there."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    memo.runner = await ready()


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Close the socket."""
    await memo.runner.cleanup()


@kopf.on.event("bertops.dev", "v1alpha1", "bertdeployments")
async def event(**_: Any) -> None:
    """Do nothing."""
