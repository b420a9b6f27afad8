"""`python -m demo keep|up|load|install|serve|clean`: the demo's steps; `make demo` runs them in order."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

from demo import ask, follow, provider, tune
from images.catalog import FOR_SERVER
from support import answers
from support.installation import (
    ROOT,
    Images,
    built_images,
    install_operator,
    put_model,
    restricted_namespace,
)
from support.kube import CommandError, Kube, TooLate

NAMESPACE: Final = "bert-demo"
SAMPLES: Final = ROOT / "crds" / "samples"


def main() -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="python -m demo")
    parser.add_argument("step", choices=("keep", "up", "load", "install", "serve", "clean"))
    parser.add_argument("--model", type=Path, help="folder of the source model (serve)")
    parser.add_argument("--server", choices=sorted(FOR_SERVER), default="triton", help="which inference server")
    parser.add_argument("--tune", action="store_true", help="let a plan be measured and served by (triton)")
    parser.add_argument("--figures", type=Path, help="where serve writes its figures")
    arguments = parser.parse_args()
    place = provider.choose(os.environ)
    try:
        return _STEPS[arguments.step](place, arguments)
    except (CommandError, TooLate, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _up(place: provider.Provider, _: argparse.Namespace) -> int:
    place.up()
    return 0


def _keep(place: provider.Provider, arguments: argparse.Namespace) -> int:
    if place.makes_cluster:
        place.keep(built_images(*_more(arguments))[1])
    return 0


def _load(place: provider.Provider, arguments: argparse.Namespace) -> int:
    if place.makes_cluster:
        place.load(built_images(*_more(arguments))[1])
    return 0


def _install(place: provider.Provider, arguments: argparse.Namespace) -> int:
    kube = place.kube(NAMESPACE)
    install_operator(kube, _images(place, arguments))
    return 0


def _images(place: provider.Provider, arguments: argparse.Namespace) -> Images:
    more = _more(arguments)
    return built_images(*more)[0] if place.makes_cluster else provider.given_images(os.environ, more)


def _more(arguments: argparse.Namespace) -> tuple[str, ...]:
    return (*FOR_SERVER[arguments.server], *(("analyzer",) if arguments.tune else ()))


def _serve(place: provider.Provider, arguments: argparse.Namespace) -> int:
    kube, images = place.kube(NAMESPACE), _images(place, arguments)
    restricted_namespace(kube)
    if kube.get("pvc", "models") is None:
        _say(f"copying the model {arguments.model.name} into the claim 'models'")
        put_model(kube, images.operator, arguments.model)
    file = SAMPLES / f"minilm-{'tuned' if arguments.tune else arguments.server}.yaml"
    sample = answers.Sample.read(file)
    began = time.monotonic()
    _say(f"kubectl apply -f {file.relative_to(ROOT)}")
    kube.apply(file)
    live = follow.until_ready(kube, sample.name, seconds=900)
    ready = time.monotonic() - began
    match = _compare(kube, images, sample, arguments.model)
    if arguments.tune:
        _say("the plan is measured while the endpoint serves; kubectl logs shows each way of serving")
        print(f"\n{tune.until_applied(kube, sample.name)}")
    print(_epilogue(kube, live))
    if arguments.figures:
        figures = {
            "server": sample.server,
            "ready_seconds": round(ready, 1),
            "cosine": round(match.cosine, 7),
            "max_abs_diff": float(f"{match.max_abs_difference:.2e}"),
        }
        arguments.figures.write_text(json.dumps(figures), encoding="utf-8")
    return 0 if match.good else 1


def _compare(kube: Kube, images: Images, sample: answers.Sample, model: Path) -> answers.Match:
    """Ask both, print the table, and say how close they are."""
    ids = answers.tokens(model, answers.SENTENCES)
    match = answers.compare(kube, images, sample, ids)
    print(f"\nThree sentences, answered by {_TITLES[sample.server]} (cosine similarity of their embeddings):\n")
    print(ask.similarity_table(answers.SENTENCES, ask.sentence_embeddings(match.answer, ids["attention_mask"])))
    verdict = "matches" if match.good else "DOES NOT MATCH"
    print(
        f"\nThe endpoint {verdict} the source model: worst cosine of any token's vector {match.cosine:.7f}, "
        f"largest difference {match.max_abs_difference:.1e}"
    )
    return match


_TITLES: Final = {
    "triton": "Triton",
    "tfserving": "a STAND-IN for TF Serving (the real binary is used where TFSERVING_IMAGE names its image)",
    "torchserve": "TorchServe",
}


def _epilogue(kube: Kube, live: dict[str, Any]) -> str:
    name = live["metadata"]["name"]
    table = kube.kubectl("get", "bertd", name).rstrip()
    ours = f"{_OURS},app.kubernetes.io/instance={name}"
    children = kube.kubectl("get", "deployment,service,configmap,pvc", "-o", "name", "-l", ours).split()
    children += kube.kubectl("get", "bertartifact", "-o", "name").split()
    config = f"export KUBECONFIG={kube.kubeconfig}\n" + (f"export PATH={kube.tools}:$PATH\n" if kube.tools else "")
    return f"""
{table}

Where each piece lives (namespace {NAMESPACE}):
  {f"{chr(10)}  ".join(children)}
  the operator: deployment/bert-operator in namespace bert-system
  inside the cluster, clients call {live["status"]["endpoint"]["http"]} and {live["status"]["endpoint"]["grpc"]}

What to try next:
{config}kubectl -n {NAMESPACE} describe bertd {name}
kubectl -n {NAMESPACE} scale bertd {name} --replicas=2
kubectl -n {NAMESPACE} edit bertd {name}      # e.g. serving.maxBatchSize: one rollout, no failed request
make demo-clean
"""


_OURS: Final = "app.kubernetes.io/managed-by=bert-operator"


def _clean(place: provider.Provider, _: argparse.Namespace) -> int:
    if place.makes_cluster:
        place.down()
    else:
        place.kube(NAMESPACE).run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found")
    return 0


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


_STEPS: Final = {"keep": _keep, "up": _up, "load": _load, "install": _install, "serve": _serve, "clean": _clean}

if __name__ == "__main__":
    sys.exit(main())
