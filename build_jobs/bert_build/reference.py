"""`python -m bert_build reference --model DIR --task TASK`: what the source model itself answers, without any artifact.

Demos and end-to-end tests compare endpoints with it. Standard input: a JSON list of requests, each an object of
`input_ids` and optionally `attention_mask` (default: ones) and `token_type_ids` (default: zeros), as lists of rows.
Standard output: a JSON list of objects, output name -> nested lists.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bert_build import formats, job
from bert_build.failures import BuildError
from bert_operator.api.spec import Framework, Task


def main(arguments: list[str]) -> int:
    """Answer the requests on standard input."""
    parser = argparse.ArgumentParser("bert_build reference", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with config.json and weights")
    parser.add_argument("--task", type=Task, choices=list(Task), required=True, help="what the model is asked to do")
    parser.add_argument(
        "--framework", type=Framework, choices=list(Framework), default=Framework.PYTORCH, help="what it is written in"
    )
    options = parser.parse_args(arguments)
    return job.guarded("reference", lambda: _answer(options.model, options.task, options.framework))


def _answer(folder: Path, task: Task, framework: Framework) -> None:
    requests = [_arrays(request) for request in _requests(sys.stdin.read())]
    # Seconds of imports, not needed to refuse bad input.
    model = importlib.import_module(formats.SOURCES[framework]).load(folder, task)
    answers = [{name: values.tolist() for name, values in model.answer(request).items()} for request in requests]
    sys.stdout.write(json.dumps(answers) + "\n")


def _requests(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BuildError("BadRequest", f"Standard input is no JSON: {error}.", "Write a list of requests.") from error
    if not isinstance(found, list) or not all(isinstance(entry, dict) and "input_ids" in entry for entry in found):
        raise BuildError(
            "BadRequest", "Standard input is no list of requests.", 'Write e.g. [{"input_ids": [[101, 102]]}].'
        )
    return found


def _arrays(request: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    ids = np.asarray(request["input_ids"], dtype=np.int64)
    return {
        "input_ids": ids,
        "attention_mask": np.asarray(request.get("attention_mask", np.ones_like(ids)), dtype=np.int64),
        "token_type_ids": np.asarray(request.get("token_type_ids", np.zeros_like(ids)), dtype=np.int64),
    }
