"""`bertctl predict`: asks an endpoint the way a client does, and says what the answer means."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bert_build.clients import NotYetError, RefusedError, connect
from bert_operator.cli import answers, target, tokens, torchserve_text
from bert_operator.cli.terminal import Exit, FailureError, out, out_json

Arrays = dict[str, npt.NDArray[Any]]


def run(options: argparse.Namespace) -> Exit:
    """Ask once and show it."""
    with target.found(options) as asked:
        found, outputs = _answers(options, asked)
    if options.output == "json":
        about = {"server": asked.server, "model": asked.served.name, "version": asked.served.version}
        out_json(about | found | {"outputs": {name: array.tolist() for name, array in outputs.items()}})
    else:
        out(answers.text(found, outputs))
    return Exit.OK


def _answers(options: argparse.Namespace, asked: target.Target) -> tuple[dict[str, Any], Arrays]:
    """What the answers say, and the tensors that came back, if any did."""
    labels = tokens.labels(options.tokenizer)
    if asked.server == "torchserve" and options.text and not options.tokenizer:
        worded = torchserve_text.answers(asked, options.text, options.text_pair)
        if worded is not None:
            return {"predictions" if all("label" in each for each in worded) else "answers": worded}, {}
        inputs, outputs = torchserve_text.vectors(asked, options.text)
    else:
        inputs = _inputs(options, asked)
        outputs = _ask(asked, inputs)
    titles = options.text or [f"row {number}" for number in range(1, _rows(inputs) + 1)]
    return answers.meaning(titles, inputs, outputs, labels, tokens.names(options.tokenizer)), outputs


def _inputs(options: argparse.Namespace, asked: target.Target) -> Arrays:
    if options.json:
        return _tensors(options.json)
    if not options.tokenizer:
        raise FailureError(
            f"{asked.server} takes token ids: give --tokenizer with the model's tokenizer.json or its folder, or the "
            "ids themselves by --json"
        )
    return tokens.encode(options.tokenizer, options.text, asked.report, options.text_pair)


def _tensors(file: str) -> Arrays:
    """Arrays of a JSON file: whole numbers become int64, others float32; rows first."""
    hint = 'write {"input_ids": [[101, 102]], "attention_mask": [[1, 1]], ...}: one list of rows for each input'
    try:
        loaded = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
        if not isinstance(loaded, dict) or not loaded:
            raise FailureError(f"--json {file}: {hint}")
        arrays = {str(name): np.array(rows) for name, rows in loaded.items()}
    except OSError as error:
        raise FailureError(f"--json {file}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise FailureError(f"--json {file}: {error}; {hint}") from error
    shaped = {len(array) if array.ndim > 1 else 0 for array in arrays.values()}
    if len(shaped) != 1 or 0 in shaped or any(array.dtype.kind not in "iuf" for array in arrays.values()):
        raise FailureError(f"--json {file}: every input needs the same number of rows of numbers; {hint}")
    return {name: array.astype(np.float32 if array.dtype.kind == "f" else np.int64) for name, array in arrays.items()}


def _ask(asked: target.Target, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """All rows, in as many requests as the server's largest batch makes them."""
    size = asked.served.max_batch_size
    client = connect(asked.server, asked.address)
    try:
        parts = [
            client.infer(asked.served, {name: array[start : start + size] for name, array in inputs.items()})
            for start in range(0, _rows(inputs), size)
        ]
    except NotYetError as error:
        raise FailureError(f"{asked.server} at {asked.address} doesn't answer: {error}") from error
    except RefusedError as error:
        raise FailureError(f"{asked.server} refused the request: {error}") from error
    finally:
        client.close()
    return _joined(parts)


def _joined(parts: Sequence[Mapping[str, npt.NDArray[Any]]]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(inputs: Mapping[str, npt.NDArray[Any]]) -> int:
    return len(next(iter(inputs.values())))
