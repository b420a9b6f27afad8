"""Native sidecar of every serving pod: the pod turns ready only once its server answers like the source models.

Started by `python -m bert_build verify`. Sends the golden requests, recorded from the source model at build time, to
the Triton beside it and answers the kubelet's probe on :9090/ready. Afterwards it is done for the life of the pod and
shrinks to ready_server.py: if Triton restarts, Triton's own readiness counts. Never talks to anything but localhost.
"""

import argparse
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tritonclient.grpc as triton

from bert_build import golden_answers, progress, ready_server, served
from bert_build.failures import BuildError
from bert_build.golden_answers import Closeness
from bert_operator.api import names
from bert_operator.api.report import Manifest, ServedModel

READY_PORT: Final = 9090
TRITON: Final = "localhost:8001"
_POLL_SECONDS: Final = 0.5
_REQUEST_SECONDS: Final = 120
_PASSING: Final = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")
"""The server isn't there or is too busy: asked again, for it says nothing about the answers."""


class _MismatchError(Exception):
    """An answer isn't the recorded one; the text says how."""


@dataclass
class Progress:
    """What the readiness probe is told; written by the main thread, read by the probe's."""

    waiting_for: str = "the server"
    matched: list[dict[str, Any]] = field(default_factory=list)
    ready: bool = False

    def body(self) -> str:
        """JSON: what has matched, with figures, and what is still waited for."""
        about: dict[str, Any] = {"ready": self.ready, "matched": self.matched}
        return json.dumps(about if self.ready else {**about, "waitingFor": self.waiting_for})


def main(arguments: list[str]) -> int:
    """Verify every served model, then stay as the readiness server. Returns only if something is wrong."""
    parser = argparse.ArgumentParser("verify", description="Compare the server's answers with the source model's.")
    parser.add_argument("--triton", default=TRITON, help="host:port of its gRPC API")
    parser.add_argument("--port", type=int, default=READY_PORT, help="where /ready is served")
    options = parser.parse_args(arguments)
    ready_server.stop_at_sigterm()
    return served.guarded(lambda: _verify_and_stay(options.triton, options.port))


def _verify_and_stay(address: str, port: int) -> None:
    state = Progress()
    listener = ready_server.listen(port)
    answer = lambda: (state.ready, state.body())  # noqa: E731 - three words, used once
    threading.Thread(target=ready_server.serve, args=(listener, answer), daemon=True).start()
    asked = served.read()
    with triton.InferenceServerClient(address) as client:
        for model in asked.models:
            state.waiting_for = f"{served.title(model)} at {address}"
            state.matched.append(_verify(client, model, served.rebuild_hint(asked.owner)))
    state.ready = True
    _shrink(listener, state.body())


def _shrink(listener: socket.socket, body: str) -> None:
    """Become ready_server.py: the socket goes along, gRPC and numpy (90 MB) don't."""
    os.set_inheritable(listener.fileno(), True)
    sys.stdout.flush()
    program = [sys.executable, "-I", "-S", ready_server.__file__, str(listener.fileno()), body]
    os.execv(sys.executable, program)  # noqa: S606 - our own file, no shell


def _verify(client: Any, model: ServedModel, rebuild: str) -> dict[str, Any]:  # noqa: ANN401 - tritonclient has no types
    """Ask one model all its golden requests.

    Raises:
        BuildError: an answer isn't close enough to the recorded one.
    """
    folder = Path(model.path)
    manifest = Manifest.model_validate_json((folder / names.MANIFEST_FILE).read_bytes())
    requests = golden_answers.read(folder / names.GOLDEN_FILE)
    _wait(lambda: client.is_model_ready(model.name, str(model.version)), f"{served.title(model)} to be ready")
    worst = Closeness()
    try:
        for request in requests:
            for part in request.split(model.max_batch_size):
                worst = worst.worst(_compare(client, model, part, manifest))
    except _MismatchError as error:
        raise _failure(model, str(error), rebuild) from error
    progress.say("verify", f"{served.title(model)}: {len(requests)} golden requests match, {_figures(worst, manifest)}")
    return {
        "model": model.name,
        "version": model.version,
        "requests": len(requests),
        "maxAbsDifference": worst.max_abs_difference,
        "minCosine": worst.min_cosine,
    }


def _compare(client: Any, model: ServedModel, request: golden_answers.Request, manifest: Manifest) -> Closeness:  # noqa: ANN401
    answers = _infer(client, model, request)
    worst = Closeness()
    for name, expected in request.outputs.items():
        answered = answers.as_numpy(name)
        fault = golden_answers.fault(expected, answered)
        if fault:
            raise _MismatchError(f"output {name!r} {fault}")
        closeness = golden_answers.compare(expected, answered, request.inputs.get(golden_answers.MASK))
        if not golden_answers.within(closeness, manifest.report.fidelity):
            raise _MismatchError(f"output {name!r}: {_figures(closeness, manifest)}")
        worst = worst.worst(closeness)
    return worst


def _infer(client: Any, model: ServedModel, request: golden_answers.Request) -> Any:  # noqa: ANN401
    inputs = []
    for name, array in request.inputs.items():
        tensor = triton.InferInput(name, list(array.shape), triton.np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array))
    answers: list[Any] = []

    def ask() -> bool:
        answers.append(client.infer(model.name, inputs, str(model.version), client_timeout=_REQUEST_SECONDS))
        return True

    try:
        _wait(ask, f"an answer of {served.title(model)}")
    except triton.InferenceServerException as error:
        raise _MismatchError(f"the server refused a golden request: {error.message()}") from error
    return answers[-1]


def _wait(done: Callable[[], bool], what: str) -> None:
    """Ask until it is done. There is no deadline: the kubelet's startup probe of the server has one."""
    said = False
    while not _passed(done):
        if not said:
            progress.say("verify", f"waiting for {what}")
            said = True
        time.sleep(_POLL_SECONDS)


def _passed(done: Callable[[], bool]) -> bool:
    try:
        return done()
    except triton.InferenceServerException as error:
        if error.status() in _PASSING:
            return False
        raise


def _failure(model: ServedModel, what: str, rebuild: str) -> BuildError:
    return BuildError(
        "VerificationFailed",
        f"{served.title(model)} doesn't answer like its source model: {what}.",
        f"Pods that passed before keep serving. Build it again ({rebuild}), loosen models[].build.fidelity, or serve "
        "it regardless by rollout.verify: false.",
    )


def _figures(found: Closeness, manifest: Manifest) -> str:
    limits = manifest.report.fidelity
    return (
        f"max abs difference {found.max_abs_difference:.3g} (limit {limits.limit_max_abs_difference:.3g}), "
        f"min cosine {found.min_cosine:.6f} (limit {limits.limit_min_cosine:.6f})"
    )
