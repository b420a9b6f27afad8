"""`make bench-mission`: every sample, from `kubectl apply` to an answer equal to the source model's, on one cluster.

One after the other, each deleted before the next: two cores hold no more. Prints progress; `stages` prints the figures.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench import sources
from demo import provider
from images.catalog import DOCKERFILES
from support import answers
from support.installation import ROOT, Images, built_images, install_operator, restricted_namespace
from support.kube import CommandError, Kube, TooLate, condition, wait_for

NAMESPACE: Final = "bert-mission"
SAMPLES: Final = ROOT / "crds" / "samples"
SECONDS: Final = 600


def main() -> int:
    """Run every sample; 0 if each one that this cluster can serve answered like its source model."""
    parser = argparse.ArgumentParser(prog="python -m bench.mission", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--figures", type=Path, required=True, help="file that takes the figures, as JSON")
    parser.add_argument("samples", nargs="*", type=Path, default=sorted(SAMPLES.glob("*.yaml")))
    chosen = parser.parse_args()
    place = provider.choose(os.environ)
    figures: dict[str, dict[str, Any]] = {}
    kube, images = _loaded(place)
    with sources.hub(chosen.model, provider.address_towards(kube)) as hub:
        install_operator(kube, images, hub=hub)
        restricted_namespace(kube)
        sources.put(kube, images, chosen.model)
        for file in chosen.samples:
            figures[file.stem] = _run(kube, images, file)
            print(f"  {file.stem}: {figures[file.stem]}", flush=True)
    chosen.figures.write_text(json.dumps(figures), encoding="utf-8")
    return 0 if all(told["answers_match"] is not False for told in figures.values()) else 1


def _loaded(place: provider.Provider) -> tuple[Kube, Images]:
    more = [name for name in DOCKERFILES if name not in ("operator", "pytorch", "triton-cpu")]
    if not place.makes_cluster:
        return place.kube(NAMESPACE), provider.given_images(os.environ, more)
    images, archives = built_images(*more)
    place.keep(archives)
    place.up()
    place.load(archives)
    return place.kube(NAMESPACE), images


def _run(kube: Kube, images: Images, file: Path) -> dict[str, Any]:
    """One sample: seconds to Ready and whether it answers like its source; None for both where a GPU is waited for."""
    sample = answers.Sample.read(file)
    began = time.monotonic()
    with _applied(kube, file):
        try:
            waits = wait_for(f"{sample.name} Ready", lambda: _verdict(kube, sample.name), seconds=SECONDS, patience=1)
        except TooLate as error:
            return {"ready_seconds": None, "answers_match": False, "why": str(error)[-300:]}
        seconds = round(time.monotonic() - began, 1)
        if waits != "Ready":
            return {"ready_seconds": None, "answers_match": None, "why": waits}
        try:
            match = answers.compare(kube, images, sample, sources.ids(sample))
        except (ValueError, CommandError) as error:
            return {"ready_seconds": seconds, "answers_match": False, "why": str(error)[-300:]}
        return {
            "ready_seconds": seconds,
            "answers_match": match.good,
            "max_abs_diff": float(f"{match.max_abs_difference:.2e}"),
        }


def _verdict(kube: Kube, name: str) -> str:
    """Ready, or why it never will be on this cluster; empty while it is under way."""
    live = kube.get("bertdeployment", name)
    if condition(live, "Ready").get("status") == "True":
        return "Ready"
    built = condition(live, "Built")
    return str(built["message"]) if "nvidia.com/gpu" in built.get("message", "") else ""


@contextmanager
def _applied(kube: Kube, file: Path) -> Iterator[None]:
    kube.apply(file)
    try:
        yield
    finally:
        kube.kubectl("delete", "-f", str(file), "--wait=true")
        kube.kubectl("wait", "--for=delete", "pods", "--all", "--timeout=120s", check=False)


if __name__ == "__main__":
    sys.exit(main())
