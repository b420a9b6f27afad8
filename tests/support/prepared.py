"""Runs build steps as forks of one process that has imported PyTorch and friends: that takes seconds each time.

`Prepared().run(...)` answers like a step that was started anew: a process of its own with its own environment. Inside,
`python -m support.prepared` reads one JSON line for each step and answers with one.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final, Self

_IMPORTS: Final = (
    "bert_build.job",
    "bert_build.source_model",
    "onnx",
    "onnxruntime",
    "transformers.models.bert.modeling_bert",
)


class Prepared:
    """The process that all steps are forks of; close it by leaving the `with` block."""

    def __init__(self) -> None:
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "support.prepared"]
        self._process = subprocess.Popen(
            command, env={**os.environ, **path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], text: str = "") -> tuple[int, str, str]:
        """`python -m bert_build <arguments>`: exit status, what it printed, what it said on standard error.

        Args:
            arguments: the step and its options.
            environment: all of it.
            text: its standard input.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([list(arguments), dict(environment), text]) + "\n")
        self._process.stdin.flush()
        code, out, err = json.loads(self._process.stdout.readline())
        return code, out, err


def main() -> None:
    """Fork for each line, answer when the fork has ended; the end of the input is the end."""
    for name in _IMPORTS:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        arguments, environment, text = json.loads(line)
        files = [os.memfd_create(name) for name in ("in", "out", "err")]
        os.pwrite(files[0], text.encode(), 0)
        child = os.fork()
        if not child:
            _step(arguments, environment, files)
        _, status = os.waitpid(child, 0)
        said = [os.pread(file, os.fstat(file).st_size, 0).decode() for file in files[1:]]
        for file in files:
            os.close(file)
        print(json.dumps([os.waitstatus_to_exitcode(status), *said]), flush=True)


def _step(arguments: list[str], environment: dict[str, str], files: Sequence[int]) -> None:
    """Be `python -m bert_build`; never returns."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        code = importlib.import_module("bert_build.__main__").main(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - a fork must never return into the loop
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
