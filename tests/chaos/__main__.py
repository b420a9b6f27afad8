"""`python3 -m chaos`: the fault campaign. `make campaign` runs it in full and writes docs/campaign.*."""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from chaos import families, page, targets
from chaos.campaign import Campaign, failed
from chaos.lab import control_plane, open_lab
from chaos.stories import Result
from chaos.workloads import WORKLOADS

AT_ONCE: Final = 8
SUBSET: Final = (
    "R1/create/6",
    "R1/rebuild/4",
    "R1/share/5",
    "R1/delete/9",
    "R2/building/all/new/plain",
    "R2/served/bert/served/tfserving",
    "R3/jobs-done-and-gone/gone",
    "R3/spec-twice/late",
    "R5/1",
    "R7/create/create.jobs/cut",
    "R7/create/apply.deployments/409",
    "R7/create/apply.bertartifacts/429",
    "R11/all-recreated",
    "R11/records-deleted",
)
"""For `make test`: of each cheap family what is most likely to break."""


def main() -> int:
    """Exit status: 1 if a plan failed."""
    parser = argparse.ArgumentParser(prog="python3 -m chaos", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="plans whose id begins so; may be repeated")
    parser.add_argument("--subset", action="store_true", help="a fixed choice of plans, for `make test`")
    parser.add_argument("--resume", action="store_true", help="leave out what passed for this very code")
    parser.add_argument("--list", action="store_true", help="print the plans and end")
    parser.add_argument("--write", action="store_true", help="write docs/campaign.* from what ran")
    parser.add_argument("--patience", type=float, default=1.0, help="make every limit so many times as long")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="plans that run at once (default: %(default)s)")
    chosen = parser.parse_args()
    with control_plane() as kubeconfig:
        return asyncio.run(_main(chosen, kubeconfig))


async def _main(chosen: argparse.Namespace, kubeconfig: Path) -> int:
    began, load = time.monotonic(), os.getloadavg()
    async with open_lab(kubeconfig, chosen.patience) as lab:
        campaign = Campaign(lab=lab, at_once=chosen.at_once)
        plans = await _plans(campaign, SUBSET if chosen.subset else chosen.only)
        if chosen.list:
            print("\n".join(plans))
            return 0
        results = await campaign.run(plans, resume=chosen.resume)
    seconds = time.monotonic() - began
    whole = not (chosen.only or chosen.subset)
    missed = targets.missed(results) if whole else {}
    if chosen.write:
        about = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "minutes": round(seconds / 60, 1),
            "at_once": chosen.at_once,
            "cores": os.cpu_count(),
            "code": campaign.code,
            "patience": chosen.patience,
            "load": ", ".join(f"{one:.1f}" for one in load),
        }
        page.write(page.figures(results, about, missed))
    return _closing(results, missed, seconds)


def _closing(results: Sequence[Result], missed: Mapping[str, Sequence[str]], seconds: float) -> int:
    """Say how it went, in a line such as pytest's; exit status."""
    bad = failed(results)
    for family, short in missed.items():
        print("\n".join(f"{family}: {text}" for text in short))
    counts = [(len(bad), "failed"), (len(results) - len(bad), "passed")]
    print(f"{', '.join(f'{count} {word}' for count, word in counts if count)} in {seconds:.1f}s")
    return 1 if bad or missed or not results else 0


async def _plans(campaign: Campaign, only: Sequence[str]) -> list[str]:
    """The plans that are wanted; those that depend on what a workload does need its reference first."""
    found = list(families.others())
    stories = [one.split("/") for one in only if one.split("/")[0] in families.STORIES]
    if stories or not only:
        every = not only or any(len(parts) == 1 for parts in stories)
        names = [name for name in WORKLOADS if every or name in {parts[1] for parts in stories}]
        references = await asyncio.gather(*(campaign.reference(name) for name in names))
        found += families.stories_of(dict(zip(names, references, strict=True)))
    return [plan for plan in found if not only or any(f"{plan}/".startswith(f"{one}/") for one in only)]


if __name__ == "__main__":
    sys.exit(main())
