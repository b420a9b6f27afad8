"""`kubectl port-forward` to a pod, for as long as a block runs: kubectl knows every way to authenticate."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from bert_operator.cli.terminal import FailureError

_FORWARDING: Final = "Forwarding from "


@contextmanager
def forwarded(pod: str, port: int, namespace: str, access: Sequence[str] = ()) -> Iterator[str]:
    """A `host:port` of this machine that reaches a port of a pod.

    Args:
        pod: its name.
        port: of the pod.
        namespace: of the pod.
        access: --kubeconfig and --context, if they were given.

    Raises:
        FailureError: kubectl isn't there, or can't do it; the text holds its words.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise FailureError("kubectl isn't on PATH, and the port-forward is its work; or give --address HOST:PORT")
    command = [kubectl, *access, "--namespace", namespace, "port-forward", f"pod/{pod}", f":{port}"]
    command += ["--address", "127.0.0.1", "--pod-running-timeout", "10s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # noqa: S603 - no shell
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith(_FORWARDING):
                raise FailureError(f"kubectl port-forward pod/{pod}: {line.strip() or 'ended without a word'}")
            yield line.removeprefix(_FORWARDING).split(" ->")[0]
        finally:
            process.terminate()
