"""A steady, bounded load from inside the cluster: a connection for each request, every failure written down."""

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from support.kube import Kube, wait_for

_CLIENT: Final = """
import json, os, signal, time, urllib.request
url, body = os.environ["URL"], os.environ["BODY"].encode()
sent, failed, stopped = 0, [], []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
while not stopped and sent < 6000:
    sent += 1
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            answer = json.load(reply)
            first = answer["outputs"][0] if "outputs" in answer else answer["label"]
            if not (first["data"] if isinstance(first, dict) else first):
                failed.append("empty answer")
    except Exception as error:
        failed.append(f"request {sent}: {error!r}")
    if sent == 1:
        print("started", flush=True)
    time.sleep(0.1)
with open("/dev/termination-log", "w") as log:
    json.dump({"sent": sent, "failed": failed[:10]}, log)
"""


@dataclass
class Load:
    """What the client counted; filled when the load ends."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)


@contextlib.contextmanager
def steady_load(kube: Kube, image: str, service: str, model: str, *, server: str = "triton") -> Iterator[Load]:
    """Send requests to a Service until the block ends.

    Args:
        kube: cluster and namespace.
        image: an image with Python.
        service: name of the Service.
        model: triton: the model's name; tfserving: with /versions/N or /labels/L behind it, if one is wanted;
            torchserve: with /N behind it, if one is wanted (a classifier with a tokenizer).
        server: triton, tfserving or torchserve.
    """
    load = Load()
    wait_for("an earlier load's end", lambda: kube.get("pod", "load") is None, seconds=60)
    kube.apply(_pod(image, *_REQUESTS[server](service, model)))
    wait_for("the load", lambda: "started" in kube.kubectl("logs", "load", check=False), seconds=60)
    yield load
    kube.kubectl("delete", "pod", "load", "--wait=false")
    told = wait_for("the load's count", lambda: _told(kube), seconds=60)
    load.sent, load.failed = told["sent"], told["failed"]


def ask(kube: Kube, service: str, model: str, *, server: str = "triton") -> Any:
    """The answer to one such request, from outside of the cluster; arguments as of `steady_load`."""
    address, body = _REQUESTS[server](service, model)
    port, _, path = address.removeprefix(f"{service}:").partition("/")
    with kube.port_forward(f"service/{service}", int(port)) as local:
        data, header = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{local}/{path}", data, header)
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - http
            return json.load(reply)


def _told(kube: Kube) -> dict[str, Any] | None:
    pod = kube.get("pod", "load")
    if pod is None:
        raise AssertionError("the load's pod went without a word")
    for status in pod["status"].get("containerStatuses") or ():
        message = (status["state"].get("terminated") or {}).get("message")
        if message:
            kube.kubectl("patch", "pod", "load", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
            told: dict[str, Any] = json.loads(message)
            return told
    return None


_TENSORS: Final = {"input_ids": [101, 7592, 2088, 102], "attention_mask": [1] * 4, "token_type_ids": [0] * 4}


def _to_triton(service: str, model: str) -> tuple[str, Any]:
    inputs = [{"name": n, "shape": [1, 4], "datatype": "INT64", "data": data} for n, data in _TENSORS.items()]
    return f"{service}:8000/v2/models/{model}/infer", {"inputs": inputs}


def _to_tfserving(service: str, model: str) -> tuple[str, Any]:
    return f"{service}:8501/v1/models/{model}:predict", {"inputs": {name: [data] for name, data in _TENSORS.items()}}


def _to_torchserve(service: str, model: str) -> tuple[str, Any]:
    return f"{service}:8080/predictions/{model}", {"text": "What a good film!"}


_REQUESTS: Final = {"triton": _to_triton, "tfserving": _to_tfserving, "torchserve": _to_torchserve}


def _pod(image: str, address: str, body: Any) -> dict[str, Any]:
    env = {"URL": f"http://{address}", "BODY": json.dumps(body)}
    container = {
        "name": "load",
        "image": image,
        "command": ["python", "-c", _CLIENT],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    # The finalizer keeps the deleted pod's last words until they are read.
    metadata = {"name": "load", "finalizers": ["tests.bertops.dev/read"]}
    spec = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
