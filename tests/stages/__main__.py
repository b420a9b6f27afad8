"""`python3 -m stages demo|test`: the two recipes, their timing table and their JSON line."""

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from demo import given
from images import catalog
from images.cache import Cache
from stages.graph import Result, Runner, Step, counts, failures, table
from support import s3_server

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = sys.executable
_INSIDE: Final = ("--", "python", "-m", "pytest", "-p", "no:cacheprovider")
"""How `images run` tests inside an image."""


def main() -> int:
    """Run a recipe; print the timing table and, last, one JSON line."""
    parser = argparse.ArgumentParser(prog="python3 -m stages")
    parser.add_argument("recipe", choices=("demo", "mission", "test", "venv"))
    parser.add_argument("--server", choices=sorted(catalog.FOR_SERVER), default="triton", help="of the demo")
    parser.add_argument("--tune", action="store_true", help="let the demo measure a plan and apply it")
    chosen = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT / "tests")
    match chosen.recipe:
        case "venv":
            print(venv_python())
            return 0
        case "demo":
            if chosen.tune and chosen.server != "triton":
                parser.error("TUNE=1 measures Triton only: leave SERVER out")
            return _demo(chosen.server, tune=chosen.tune)
        case "mission":
            return _mission()
        case _:
            return _test()


def cache() -> Path:
    """The one folder of downloads and builds."""
    return Cache.from_environment().root


def venv_python() -> Path:
    """Interpreter with the locked development tools; one environment per lock file."""
    lock = hashlib.sha256((ROOT / "tests" / "requirements.txt").read_bytes()).hexdigest()[:12]
    return cache() / f"venv-{lock}" / "bin" / "python"


def _triton() -> Path:
    """Environment with the real tritonserver of the CPU image, outside of any container."""
    lock = ROOT / "build_jobs" / "triton-cpu-requirements.txt"
    return cache() / f"triton-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"


def _ground(*images: str) -> list[Step]:
    """What all recipes stand on; nothing here waits for what it doesn't need. Without names, all images are built."""
    return [
        Step(name="prerequisites", command=_tool("stages.prerequisites")),
        Step(name="venv", command=_tool("stages.venv")),
        Step(name="binaries", command=_tool("localcluster", "build-binaries"), after=("prerequisites",)),
        Step(name="images", command=_tool("images", "build", *images), after=("prerequisites",)),
        Step(name="model", command=_tool("images", "fixture", "minilm")),
    ]


def _model() -> Path:
    return cache() / "models" / "all-MiniLM-L6-v2"


def _demo(server: str, *, tune: bool) -> int:
    figures = cache() / "demo-figures.json"
    figures.unlink(missing_ok=True)
    cold = not venv_python().exists()
    results, seconds = _run(demo_steps(server, figures, tune=tune, environment=os.environ), "demo")
    told = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
    print(json.dumps({"demo": {"seconds": round(seconds, 1), "cold": cold, **told}}))
    return _code(results)


def demo_steps(server: str, figures: Path, *, tune: bool, environment: Mapping[str, str]) -> list[Step]:
    """The demo on a cluster of its own; on the user's, nothing is built but the tools that aren't there."""
    chosen = ("--server", server, *(("--tune",) if tune else ()))
    more = (*catalog.FOR_SERVER[server], *(("analyzer",) if tune else ()))
    ground = _ground(*catalog.BASIC, *more)
    if given.cluster(environment):
        needed = {"venv", "model"} | (set() if given.tools(environment) else {"prerequisites", "binaries"})
        ground = [step for step in ground if step.name in needed]
        ready = tuple(needed)
    else:
        ground += [
            # Before there is a node: what is unpacked once, nodes of later runs have from the beginning.
            _demo_step("keep-images", "keep", *chosen, after=("images", "venv")),
            _demo_step("cluster", "up", after=("binaries", "keep-images")),
            _demo_step("load-images", "load", *chosen, after=("cluster",)),
        ]
        ready = ("load-images",)
    serve = ("serve", *chosen, "--model", str(_model()), "--figures", str(figures))
    return [
        *ground,
        _demo_step("install", "install", *chosen, after=ready),
        _demo_step("serve", *serve, after=("install", "model"), live=True),
    ]


def _mission() -> int:
    """Every sample, end to end, on one cluster of its own."""
    figures = cache() / "mission-figures.json"
    figures.unlink(missing_ok=True)
    steps = [
        *_ground(),
        Step(
            name="mission",
            command=[str(venv_python()), "-m", "bench.mission", "--model", str(_model()), "--figures", str(figures)],
            after=("binaries", "venv", "images", "model"),
            live=True,
            env=_paths(),
        ),
    ]
    results, _ = _run(steps, "mission")
    print(figures.read_text(encoding="utf-8") if figures.exists() else "{}")
    return _code(results)


def _paths() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(str(ROOT / folder) for folder in ("operator", "build_jobs", "tests"))}


def _test() -> int:
    steps = [*_ground(), *_beside(), *_end_to_end()]
    results, seconds = _run(steps, "test")
    return _summary(results, seconds)


def _beside() -> list[Step]:
    """A few queues beside the end-to-end tests: more at once would not end sooner, only let all wait for a processor.

    The campaign waits for seconds, so it comes when the end-to-end tests leave it room.
    """
    s3 = f"{s3_server.folder(cache())}:/s3"
    triton = {"BERTOPS_TRITON_ROOT": str(_triton() / "lib/python3.11/site-packages/pytriton/tritonserver")}
    return [
        Step(name="check", command=["make", "--no-print-directory", "check"], after=("venv",)),
        Step(name="unit", command=[*_pytest(), "tests/unit"], after=("venv",)),
        Step(
            name="build",
            command=_tool("images", "run", "--mount", s3, "pytorch", *_INSIDE, "tests/build"),
            after=("images", "s3server"),
            behind=("check",),
        ),
        Step(
            name="build-tensorflow",
            command=_tool("images", "run", "tensorflow", *_INSIDE, "tests/build_tensorflow"),
            after=("images",),
            behind=("build",),
        ),
        Step(name="cluster", command=[*_pytest(), "tests/cluster"], after=("venv", "binaries")),
        _down("apitests", "cluster"),
        # What a loaded machine makes late isn't what it is here for.
        Step(
            name="chaos",
            command=[str(venv_python()), "-m", "chaos", "--subset", "--patience", "3", "--at-once", "12"],
            after=("binaries", "venv"),
            behind=("cluster", "e2e"),
            env=_paths(),
        ),
        Step(
            name="triton-server",
            command=[str(venv_python()), "-m", "support.real_triton", str(_triton())],
            after=("venv",),
            env=_paths(),
        ),
        Step(
            name="triton",
            command=[*_pytest(), "-m", "e2e", "tests/triton"],
            after=("triton-server", "images"),
            env=triton,
        ),
        Step(name="torchserve", command=_tool("support.real_torchserve"), after=("images",), behind=("triton",)),
        Step(
            name="tfserving",
            command=_tool("images", "run", "tfserving-standin", *_INSIDE, "tests/tfserving"),
            after=("images",),
            behind=("torchserve",),
        ),
        # The chart's golden files need helm.
        Step(name="golden", command=[*_pytest(), "tests/golden"], after=("venv", "binaries"), behind=("unit",)),
    ]


def _archives() -> list[str]:
    return [str(catalog.image(name).archive(Cache.from_environment())) for name in catalog.DOCKERFILES]


def _end_to_end() -> list[Step]:
    ground = cache() / "logs" / "test" / "ground"
    shutil.rmtree(ground, ignore_errors=True)
    model = {"BERTOPS_E2E_MODEL": str(_model()), "BERTOPS_E2E_GROUND": str(ground)}
    # One promises seconds; the other upgrades and uninstalls the operator that all others need.
    alone = ("tests/e2e/test_again.py", "tests/e2e/test_chart.py")
    side_by_side = ("-n", "4", "--dist", "loadfile", "--no-loadscope-reorder")
    others = [f"--ignore={module}" for module in alone]
    return [
        # Its compiler finds in the cache what the binaries had compiled.
        Step(name="s3server", command=_tool("support.s3_server"), after=("binaries",)),
        # What is unpacked once, the nodes of all later runs have from the beginning.
        Step(name="keep-images", command=_tool("localcluster", "keep-images", *_archives()), after=("images",)),
        Step(
            name="e2e",
            command=[*_pytest(), *side_by_side, *others, "tests/e2e"],
            # The one module that needs the S3 server comes late, and would build it.
            after=("model", "binaries", "keep-images"),
            env=model,
        ),
        Step(name="e2e-alone", command=[*_pytest(), *alone], after=("e2e",), env=model),
        _down("e2e", "e2e-alone"),
    ]


def _pytest() -> list[str]:
    return [str(venv_python()), "-m", "pytest"]


def _down(name: str, after: str) -> Step:
    return Step(name=f"down-{name}", command=_tool("localcluster", "down", "--name", name), after=(after,), always=True)


def _summary(results: Sequence[Result], seconds: float) -> int:
    """The counts of all tiers, as a test runner would close, then the JSON line."""
    total = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    for result in results:
        for kind, number in counts(result.log).items():
            total[kind] = total.get(kind, 0) + number
    failed = (
        total["failed"]
        + total["error"]
        + sum(1 for result in results if result.code and not result.skipped and not counts(result.log))
    )
    for result in results:
        for failure in failures(result.log):
            print(f"{result.name}: {failure}")
    print(f"\n{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    print(json.dumps({"test": {"passed": total["passed"], "seconds": round(seconds, 1)}}))
    return _code(results)


def _run(steps: Sequence[Step], name: str) -> tuple[list[Result], float]:
    began = time.monotonic()
    try:
        results = asyncio.run(Runner(steps, cache() / "logs" / name).run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(f"{name}: stopped; a cluster that was up stays up: python3 -m localcluster down --all")
    seconds = time.monotonic() - began
    print(f"\n{table(results, _note)}\n{'total':<13}  {'':>8}  {seconds:7.1f}s", flush=True)
    return results, seconds


def _note(result: Result) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in counts(result.log).items())


def _code(results: Sequence[Result]) -> int:
    return 1 if any(result.code for result in results) else 0


def _tool(module: str, *arguments: str) -> list[str]:
    return [PYTHON, "-m", module, *arguments]


def _demo_step(name: str, *arguments: str, after: tuple[str, ...], live: bool = False) -> Step:
    command = [str(venv_python()), "-m", "demo", *arguments]
    return Step(name=name, command=command, after=after, live=live, env=_paths())


if __name__ == "__main__":
    sys.exit(main())
