"""`python -m bench.operator_bench [--only P1,P3] [--n 100]`: the operator's speed; the last line is JSON."""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench.operator_bench import report
from bench.operator_bench.bursts import Bench
from bench.operator_bench.cluster import Api, ControlPlane
from bench.operator_bench.measures import MEASURES, chosen
from bench.operator_bench.results import Results, Sizes, dumped, say
from support.kube_api import KubeApi
from support.operator_process import install_crds

LIMIT: Final = 2400.0
"""Seconds that one measure may take."""


def main() -> int:
    """Run the chosen measures and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator_bench", description=__doc__)
    parser.add_argument("--only", default="", help="ids of the figures wanted, e.g. P1,P3; all by default")
    parser.add_argument("--n", type=int, help="size of a burst, everything else in proportion; the issue's by default")
    parser.add_argument("--write", action="store_true", help="write docs/bench-operator.json and .md")
    parser.add_argument("--add", action="store_true", help="the same, keeping what is there of the other measures")
    options = parser.parse_args()
    try:
        names = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    # After each measure: what an interrupted run has found is there.
    keep = report.write if options.write or options.add else lambda _: None
    results = report.written() if options.add else Results(details={"machine": _machine(), "not_yet": names})
    asyncio.run(_run(names, Sizes.of(options.n), results, keep))
    rows = list(report.rows(results.figures))
    print("\n".join(map(str, rows)))
    print(dumped(results.figures))
    # Targets are for the sizes: a small burst pays its start alone.
    return 1 if results.details.get("failed") or (options.n is None and not all(row.met for row in rows)) else 0


async def _run(names: list[str], sizes: Sizes, results: Results, keep: Callable[[Results], None]) -> None:
    plane = ControlPlane()
    try:
        with KubeApi(plane.kubeconfig) as kube:
            install_crds(kube)
        with tempfile.TemporaryDirectory() as folder:
            async with Api(plane.kubeconfig) as api:
                bench = Bench(plane=plane, api=api, folder=Path(folder))
                for name in names:
                    results.details.setdefault("pace", {})[name] = round(pace(), 1)
                    say(f"{name}: load {os.getloadavg()[0]:.1f}, pace {results.details['pace'][name]}")
                    await _measured(name, bench, sizes, results)
                    say(f"{name}: {dumped(results.figures)}")
                    results.details["not_yet"] = [one for one in results.details["not_yet"] if one != name]
                    keep(results)
    finally:
        plane.down()


async def _measured(name: str, bench: Bench, sizes: Sizes, results: Results) -> None:
    """Take one measure; one that fails takes none of the others along."""
    _, measure = MEASURES[name]
    results.details.get("failed", {}).pop(name, None)
    try:
        async with asyncio.timeout(LIMIT):
            await measure(bench, sizes, results)
    except (RuntimeError, TimeoutError, OSError, LookupError, ValueError, aiohttp.ClientError) as error:
        results.details.setdefault("failed", {})[name] = repr(error)
        say(f"{name}: failed: {error!r}")


def pace() -> float:
    """How fast the machine is right now, in million turns of a fixed loop per second; it has neighbours."""
    turns, began = 3_000_000, time.process_time()
    for _ in range(turns):
        pass
    return turns / (time.process_time() - began) / 1e6


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "load_at_start": round(os.getloadavg()[0], 2), "at": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    sys.exit(main())
