"""R10 and R12 are programs of their own, with clusters of their own; each is a plan here, its figures the plan's."""

import asyncio
import contextlib
import json
import sys
from typing import Any, Final

from chaos import oracles
from chaos.place import Lab
from chaos.stories import Result

PROGRAMS: Final = {
    "R10/killed-told-stopped": ("chaos.leader", "--cluster=campaign-leader"),
    "R12/fifty-live": ("chaos.upgrade", "--cluster=campaign-upgrade"),
}
_ROUNDS: Final = {"killed_seconds": "killed_s", "told_seconds": "told_s", "stopped_seconds": "stopped_s"}


def plans() -> list[str]:
    """One for each program."""
    return list(PROGRAMS)


async def run(lab: Lab, plan: str, namespace: str, _: object = None) -> Result:
    """Run one, and take over what it found; what it says meanwhile is kept where a plan's log would be."""
    log = lab.folder / namespace / "stderr.txt"
    log.parent.mkdir(parents=True)
    with log.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *PROGRAMS[plan], stdout=asyncio.subprocess.PIPE, stderr=err
        )
        try:
            out, _ = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
    try:
        said = json.loads(out.decode().splitlines()[-1])
    except (IndexError, ValueError):
        return Result(plan=plan, problems=[f"it ended with {process.returncode}: {log.read_text()[-1000:]}"])
    return result(plan, said[plan.split("/", maxsplit=1)[0]])


def result(plan: str, figures: dict[str, Any]) -> Result:
    """What a program printed, as a plan's end. Of seconds, the worst."""
    measured = {name: figures[key]["max"] for key, name in _ROUNDS.items() if key in figures}
    same = ("rounds", "writes_by_non_holder", "resources", "pod_template_changes", "pods_replaced")
    measured |= {key: figures[key] for key in same if key in figures}
    return Result(plan=plan, problems=figures["problems"][: oracles.MOST], measured=measured)
