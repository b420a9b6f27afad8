"""`make bench-build`: our whole build command beside the usual tool's, on this machine, with one PyTorch.

The measuring itself runs inside the build image: see build_inside. Writes docs/bench-build.json and .md when asked to;
the last line printed is the JSON line with the figures that count.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from images import packages
from images.cache import Cache
from images.catalog import TOP

LOCK: Final = "tests/bench/build-tool.txt"
JSON_FILE: Final = TOP / "docs" / "bench-build.json"
MARKDOWN_FILE: Final = TOP / "docs" / "bench-build.md"
TARGETS: Final = {"time_ratio": 1.0, "rss_ratio": 0.8, "cached_seconds": 5.0}
"""None of the figures may be larger."""
_PLACE: Final = "/tool"


def main() -> int:
    """Exit status: 1 if a figure misses its target."""
    parser = argparse.ArgumentParser(prog="python -m bench.build", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each side")
    parser.add_argument("--write", action="store_true", help="write docs/bench-build.*")
    chosen = parser.parse_args()
    cache = Cache.from_environment()
    load = os.getloadavg()[0]
    inside = ["python", "-m", "bench.build_inside", f"--tool={_PLACE}", f"--runs={chosen.runs}"]
    command = [sys.executable, "-m", "images", "run", "--mount", f"{_tool(cache)}:{_PLACE}", "pytorch", "--", *inside]
    said = subprocess.run(command, check=True, cwd=TOP / "tests", stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    found |= {"processors": os.cpu_count(), "load_before": round(load, 2)}
    if chosen.write:
        JSON_FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        MARKDOWN_FILE.write_text(markdown(found), encoding="utf-8")
    print(markdown(found))
    print(json.dumps({name: found[name] for name in TARGETS}))
    return 1 if missed(found) else 0


def missed(found: dict[str, Any]) -> list[str]:
    """Names of the figures that are larger than they may be."""
    return [name for name, most in TARGETS.items() if found[name] > most]


def _tool(cache: Cache) -> Path:
    """Folder with the usual tool's packages as locked, but for torch, which is the image's."""
    return packages.folder("build-tool", LOCK, "usual tool", cache, ["--ignore-requires-python", "--no-compile"])


def markdown(found: dict[str, Any]) -> str:
    """The figures as a page."""
    ours, tool = found["ours"], found["usual_tool"]
    rows = [
        f"| {name} | {cost['seconds']:.2f} | {cost['cpu_seconds']:.2f} | {cost['rss_mib']:.0f} |"
        for name, cost in found["steps"].items()
    ]
    cpu = sum(cost["cpu_seconds"] for cost in found["steps"].values())
    return f"""# What a build costs, beside the usual tool
Written by `make bench-build`; by hand only through its program.

bert-base with weights drawn by chance (440 MB), sequence classification, 512 tokens; {found["runs"]} runs of each
side in turns, medians, after one of each that doesn't count. {found["processors"]} processors, load average
{found["load_before"]} before. Both sides run in the build image with its PyTorch (Debian's CPU build). Ours is the
whole Job, a process for each step as in the pod: fetch from a folder, inspect, ask the source model, convert, compare
(the gate), publish. The other side is `optimum-cli export onnx` of optimum-onnx 0.1.0 with transformers 4.57.6 and its
own check.

| | seconds | CPU seconds | MiB at once |
|---|---|---|---|
| ours | {ours["seconds"]:.2f} | {cpu:.2f} | {ours["rss_mib"]} |
| the usual tool | {tool["seconds"]:.2f} | {tool["cpu_seconds"]:.2f} | {tool["rss_mib"]} |
| **ratio** | **{found["time_ratio"]:.2f}** (at most {TARGETS["time_ratio"]}) | | **{found["rss_ratio"]:.2f}** \
(at most {TARGETS["rss_ratio"]}) |

| step | seconds | CPU seconds | MiB at once |
|---|---|---|---|
{chr(10).join(rows)}

The same Job when its artifact is published already: {found["cached_seconds"]:.2f} s for all steps (at most \
{TARGETS["cached_seconds"]:.0f}).

Steps are containers of their own, so the largest counts. Memory is what the processes hold (resident), mapped files
included. The source and the store are on one disk; what we publish is synced to it, what the tool writes isn't.
"""


if __name__ == "__main__":
    sys.exit(main())
