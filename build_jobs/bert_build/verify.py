"""Native sidecar of every serving pod: the pod turns ready only once its server answers like the source models.

Started by `python -m bert_build verify`. Sends the golden requests, recorded from the source model at build time, to
the server beside it and answers the kubelet's probe on :9090/ready. Afterwards it is done for the life of the pod and
shrinks to ready_server.py: if the server restarts, its own readiness counts. Never talks to anything but localhost.
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

from bert_build import golden_answers, progress, ready_server, served
from bert_build.clients import Arrays, Client, NotYetError, RefusedError, connect
from bert_build.failures import BuildError
from bert_build.golden_answers import Closeness
from bert_operator.api import names
from bert_operator.api.report import Manifest, ServedModel

READY_PORT: Final = 9090
_POLL_SECONDS: Final = 0.5


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
    parser.add_argument("--server", default="", help="host:port of its API, if not the usual one of this pod")
    parser.add_argument("--port", type=int, default=READY_PORT, help="where /ready is served")
    options = parser.parse_args(arguments)
    ready_server.stop_at_sigterm()
    return served.guarded(lambda: _verify_and_stay(options.server, options.port))


def _verify_and_stay(address: str, port: int) -> None:
    state = Progress()
    listener = ready_server.listen(port)
    answer = lambda: (state.ready, state.body())  # noqa: E731 - three words, used once
    threading.Thread(target=ready_server.serve, args=(listener, answer), daemon=True).start()
    asked = served.read()
    client = connect(asked.server, address)
    for model in asked.models:
        state.waiting_for = served.title(model)
        state.matched.append(_verify(client, model, served.rebuild_hint(asked.owner)))
    client.close()
    state.ready = True
    _shrink(listener, state.body())


def _shrink(listener: socket.socket, body: str) -> None:
    """Become ready_server.py: the socket goes along, gRPC and numpy (90 MB) don't."""
    os.set_inheritable(listener.fileno(), True)
    sys.stdout.flush()
    program = [sys.executable, "-I", "-S", ready_server.__file__, str(listener.fileno()), body]
    os.execv(sys.executable, program)  # noqa: S606 - our own file, no shell


def _verify(client: Client, model: ServedModel, rebuild: str) -> dict[str, Any]:
    """Ask one model all its golden requests.

    Raises:
        BuildError: an answer isn't close enough to the recorded one.
    """
    folder = Path(model.path)
    manifest = Manifest.model_validate_json((folder / names.MANIFEST_FILE).read_bytes())
    requests = golden_answers.read(folder / names.GOLDEN_FILE)
    _wait(lambda: client.ready(model), f"{served.title(model)} to be ready")
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


def _compare(client: Client, model: ServedModel, request: golden_answers.Request, manifest: Manifest) -> Closeness:
    answers = _infer(client, model, request)
    worst = Closeness()
    for name, expected in request.outputs.items():
        answered = answers.get(name)
        fault = golden_answers.fault(expected, answered)
        if fault or answered is None:
            raise _MismatchError(f"output {name!r} {fault}")
        limits = manifest.report.fidelity
        floor = golden_answers.floor(name, limits.limit_max_abs_difference)
        mask = request.inputs.get(golden_answers.MASK)
        closeness = golden_answers.compare(expected, answered, mask, name=name, floor=floor)
        if not golden_answers.within(closeness, limits):
            raise _MismatchError(f"output {name!r}: {_figures(closeness, manifest)}")
        worst = worst.worst(closeness)
    return worst


def _infer(client: Client, model: ServedModel, request: golden_answers.Request) -> Arrays:
    answers: list[Arrays] = []

    def ask() -> bool:
        answers.append(client.infer(model, request.inputs))
        return True

    try:
        _wait(ask, f"an answer of {served.title(model)}")
    except RefusedError as error:
        raise _MismatchError(f"the server refused a golden request: {error}") from error
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
    except NotYetError:
        return False


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
