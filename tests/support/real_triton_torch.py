"""The real tritonserver with our TorchScript backend, in its own image: it needs that image's Python and PyTorch.

`running` starts it from outside, exactly as the operator's container would, with the ports moved. Inside,
`python -m support.real_triton_torch COMMAND...` runs the command until its standard input closes: a signal would reach
the program that runs the image, and not the server.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bert_operator.api import names

IMAGE: Final = "triton-cpu-torch"
_ROOT: Final = Path(__file__).parents[2]
_HANDLER: Final = _ROOT / "build_jobs/bert_build/handlers/pytorch_python/model.py"


@contextmanager
def running(
    models: Path, command: Sequence[str], env: Mapping[str, str], ports: Mapping[str, int], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the operator's container; stop it as the kubelet would.

    Args:
        models: the model repository.
        command: of the container, with its arguments.
        env: of the container.
        ports: number in the command -> free one.
        log: takes what it says.
    """
    pattern = re.compile("|".join(rf"\b{number}\b" for number in ports))
    moved = [pattern.sub(lambda found: str(ports[found[0]]), text) for text in command]
    variables = [part for name, value in env.items() for part in ("--env", f"{name}={value}")]
    start = [sys.executable, "-m", "images", "run", "--mount", f"{models}:{names.MODELS_MOUNT}", *variables, IMAGE]
    inside = ["python3", "-m", "support.real_triton_torch", *moved]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*start, "--", *inside],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(_ROOT / "tests")},
        )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(timeout=250)


def main(command: Sequence[str]) -> int:
    """Run until standard input closes, then end it by SIGTERM; its exit status."""
    # The sources of the tests are no part of a pod.
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONPYCACHEPREFIX")}
    with tempfile.TemporaryDirectory() as scratch:
        backends = f"--backend-directory={_backends(Path(scratch))}"
        with subprocess.Popen([*command, backends], env=own, stdin=subprocess.DEVNULL) as server:
            sys.stdin.read()
            server.send_signal(signal.SIGTERM)
            return server.wait(timeout=200)


def _backends(folder: Path) -> Path:
    """The image's backends, ours from this checkout."""
    folder.chmod(0o755)
    ours = folder / "pytorch_python"
    ours.mkdir()
    shutil.copy(_HANDLER, ours)
    (folder / "python").symlink_to("/opt/tritonserver/backends/python")
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
