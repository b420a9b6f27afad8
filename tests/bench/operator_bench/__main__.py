"""`python -m bench.operator_bench [--only P1,P3] [--n 100]`: the operator's speed; the last line is JSON."""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.operator_bench import report
from bench.operator_bench.bursts import Bench
from bench.operator_bench.cluster import Api, ControlPlane
from bench.operator_bench.measures import MEASURES, Results, Sizes, chosen, dumped, say
from support.kube_api import KubeApi
from support.operator_process import install_crds


def main() -> int:
    """Run the chosen measures and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator_bench", description=__doc__)
    parser.add_argument("--only", default="", help="ids of the figures wanted, e.g. P1,P3; all by default")
    parser.add_argument("--n", type=int, help="size of a burst, everything else in proportion; the issue's by default")
    parser.add_argument("--write", action="store_true", help="write docs/bench-operator.json and .md")
    options = parser.parse_args()
    try:
        names = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    results = asyncio.run(_run(names, Sizes.of(options.n)))
    if options.write:
        report.write(results)
    print(dumped(results.figures))
    return 0


async def _run(names: list[str], sizes: Sizes) -> Results:
    began, results = time.monotonic(), Results()
    plane = ControlPlane()
    results.details["machine"] = _machine()
    try:
        with KubeApi(plane.kubeconfig) as kube:
            install_crds(kube)
        with tempfile.TemporaryDirectory() as folder:
            async with Api(plane.kubeconfig) as api:
                bench = Bench(plane=plane, api=api, folder=Path(folder))
                for name in names:
                    say(f"{name}: load {os.getloadavg()[0]:.1f}")
                    _, measure = MEASURES[name]
                    await measure(bench, sizes, results)
                    say(f"{name}: {dumped(results.figures)}")
    finally:
        plane.down()
    results.details["seconds"] = round(time.monotonic() - began)
    return results


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "load_at_start": round(os.getloadavg()[0], 2), "at": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    sys.exit(main())
