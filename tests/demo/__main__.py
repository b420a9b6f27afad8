"""`python -m demo up|load|install|serve|clean`: the demo's steps; `make demo` runs them in order."""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from demo import ask, follow, provider
from support.installation import (
    ROOT,
    Images,
    built_images,
    install_operator,
    loader_pod,
    put_model,
    restricted_namespace,
)
from support.kube import CommandError, Kube, TooLate

NAMESPACE: Final = "bert-demo"
NAME: Final = "minilm"
SAMPLE: Final = ROOT / "crds" / "samples" / "minilm-triton.yaml"
MIN_COSINE: Final = 0.9999
SENTENCES: Final = (
    "The cluster schedules the pods onto nodes.",
    "Kubernetes decides where containers run.",
    "My grandmother bakes the best apple pie.",
)


def main() -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="python -m demo")
    parser.add_argument("step", choices=("up", "load", "install", "serve", "clean"))
    parser.add_argument("--model", type=Path, help="folder of the source model (serve)")
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


def _load(place: provider.Provider, _: argparse.Namespace) -> int:
    if place.makes_cluster:
        with ThreadPoolExecutor() as pool:
            list(pool.map(place.load, built_images()[1]))
    return 0


def _install(place: provider.Provider, _: argparse.Namespace) -> int:
    kube = place.kube(NAMESPACE)
    install_operator(kube, _images(place))
    return 0


def _images(place: provider.Provider) -> Images:
    return built_images()[0] if place.makes_cluster else provider.given_images(os.environ)


def _serve(place: provider.Provider, arguments: argparse.Namespace) -> int:
    kube, images = place.kube(NAMESPACE), _images(place)
    restricted_namespace(kube)
    if kube.get("pvc", "models") is None:
        _say(f"copying the model {arguments.model.name} into the claim 'models'")
        put_model(kube, images.operator, arguments.model)
    began = time.monotonic()
    _say(f"kubectl apply -f {SAMPLE.relative_to(ROOT)}")
    kube.apply(SAMPLE)
    live = follow.until_ready(kube, NAME, seconds=900)
    ready = time.monotonic() - began
    cosine = _compare(kube, images, arguments.model)
    print(_epilogue(kube, live))
    if arguments.figures:
        figures = {"ready_seconds": round(ready, 1), "cosine": round(cosine, 7)}
        arguments.figures.write_text(json.dumps(figures), encoding="utf-8")
    return 0 if cosine >= MIN_COSINE else 1


def _compare(kube: Kube, images: Images, model: Path) -> float:
    """Ask both, print the table, and say how close they are."""
    ids = ask.tokens(model, SENTENCES)
    with kube.port_forward(f"service/{NAME}", 8001) as address:
        answer = ask.endpoint(address, NAME, "last_hidden_state", ids)
    print("\nThree sentences, through Triton's gRPC API (cosine similarity of their embeddings):\n")
    print(ask.similarity_table(SENTENCES, ask.sentence_embeddings(answer, ids["attention_mask"])))
    with loader_pod(kube, images.pytorch, "models", "judge") as pod:
        truth = ask.source_model(kube, pod, f"/data/{model.name}", "feature-extraction", ids)
    source = np.array(truth["last_hidden_state"], dtype=np.float32)
    cosine = ask.worst_cosine(answer, source, ids["attention_mask"])
    verdict = "matches" if cosine >= MIN_COSINE else "DOES NOT MATCH"
    print(f"\nThe endpoint {verdict} the source model: worst cosine of any token's vector {cosine:.7f}")
    return cosine


def _epilogue(kube: Kube, live: dict[str, Any]) -> str:
    table = kube.kubectl("get", "bertd", NAME).rstrip()
    children = kube.kubectl("get", "deployment,service,configmap,pvc,bertartifact", "-o", "name", "-l", _OURS).split()
    config = f"export KUBECONFIG={kube.kubeconfig}\n" + (f"export PATH={kube.tools}:$PATH\n" if kube.tools else "")
    return f"""
{table}

Where each piece lives (namespace {NAMESPACE}):
  {f"{chr(10)}  ".join(children)}
  the operator: deployment/bert-operator in namespace bert-system
  inside the cluster, clients call {live["status"]["endpoint"]["http"]} and {live["status"]["endpoint"]["grpc"]}

What to try next:
{config}kubectl -n {NAMESPACE} describe bertd {NAME}
kubectl -n {NAMESPACE} scale bertd {NAME} --replicas=2
kubectl -n {NAMESPACE} edit bertd {NAME}      # e.g. serving.maxBatchSize: one rollout, no failed request
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


_STEPS: Final = {"up": _up, "load": _load, "install": _install, "serve": _serve, "clean": _clean}

if __name__ == "__main__":
    sys.exit(main())
