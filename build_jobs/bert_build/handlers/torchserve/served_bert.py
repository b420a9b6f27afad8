"""A BERT out of an unpacked .mar: reads requests, runs them in batches, words the answers. Nothing of TorchServe in it.

It travels inside each .mar beside bert_handler.py; the build's step `compare` asks the artifact through this very file.
One request never spoils another of its batch: what can't be read is refused by itself, before anything runs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers
import torch

MODEL_FILE: Final = "model.pt"
TOKENIZER_FILE: Final = "tokenizer.json"
LABELS_FILE: Final = "index_to_name.json"
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_TENSOR_DIMENSIONS: Final = 2


class BadRequestError(Exception):
    """A request that can't be answered; the text says why and what to write instead."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the build knows of the model: the section `handler` of model-config.yaml."""

    output: str
    """`logits`, or `last_hidden_state` of a feature extractor."""
    max_length: int
    """Longest row in tokens; longer texts are cut, longer tensors refused."""
    vocabulary: int
    types: int
    """How many kinds of segments there are."""
    pad: int
    activation: str
    """What turns logits into scores: `softmax`, `sigmoid` or `none`."""
    lengths: tuple[int, ...]
    """Run once each before the model turns ready."""
    truncation_side: str
    """From which end longer texts are cut: `right` or `left`."""

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "Facts":
        """Read the section."""
        return cls(**{**section, "lengths": tuple(section["lengths"])})


@dataclass(frozen=True)
class Question:
    """One request as token ids, one list for each row."""

    ids: list[list[int]]
    mask: list[list[int]]
    types: list[list[int]]
    worded: bool = False
    """Answered by label and scores instead of tensors."""


class ServedBert:
    """The model, its tokenizer and its labels."""

    def __init__(self, folder: Path, facts: Facts, batch: int) -> None:
        """Load what was unpacked into `folder`; at most `batch` rows are run at once."""
        self._facts = facts
        self._batch = max(1, batch)
        # It would run every new shape slowly twice to specialise on it; lengths change with each request.
        torch._C._jit_set_profiling_executor(False)  # noqa: SLF001 - there is no public switch
        self._model = torch.jit.load(str(folder / MODEL_FILE), map_location="cpu").eval()
        labels = json.loads((folder / LABELS_FILE).read_bytes()) if (folder / LABELS_FILE).is_file() else {}
        self._labels = [str(labels[index]) for index in sorted(labels, key=int)]
        self._tokenizer = _tokenizer(folder / TOKENIZER_FILE, facts.max_length, facts.truncation_side)

    def warm(self) -> None:
        """Run every length once, alone and in a full batch, so that the first request is as fast as the others."""
        for length in self._facts.lengths:
            for rows in {1, self._batch}:
                self._run([([self._facts.pad] * length, [1] * length, [0] * length)] * rows)

    def question(self, body: object) -> Question:
        """Read one request.

        Args:
            body: parsed JSON, text, or the bytes of either.

        Raises:
            BadRequestError: it is neither a text nor tensors of this model.
        """
        if isinstance(body, bytes | bytearray):
            body = _decoded(bytes(body))
        if isinstance(body, str):
            body = {"text": body}
        if body is None:
            raise BadRequestError(f"the request has no body: send it with `Content-Type: application/json`; {_HOW}")
        if not isinstance(body, dict):
            raise BadRequestError(f"the body is {_kind(body)}: {_HOW}")
        if "text" in body:
            return self._from_text(body)
        if "input_ids" in body:
            return self._from_tensors(body)
        raise BadRequestError(
            f"the body has neither text nor input_ids but {', '.join(map(str, body)) or 'nothing'}: {_HOW}"
        )

    def answers(self, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
        """Answer each question, batched by length; what fails is returned in its place."""
        rows = [
            (number, row)
            for number, question in enumerate(questions)
            for row in zip(question.ids, question.mask, question.types, strict=True)
        ]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place][1][0]))
        found: dict[int, Any] = {}
        for start in range(0, len(order), self._batch):
            places = order[start : start + self._batch]
            found |= dict(zip(places, self._together([rows[place][1] for place in places]), strict=True))
        results: list[list[Any]] = [[] for _ in questions]
        for place, (number, _) in enumerate(rows):
            results[number].append(found[place])
        return [self._worded(question, values) for question, values in zip(questions, results, strict=True)]

    def _together(self, rows: Sequence[tuple[list[int], list[int], list[int]]]) -> list[Any]:
        """Run rows as one batch; should that fail, each by itself, so that only the guilty one fails."""
        try:
            return list(self._run(rows))
        except (RuntimeError, IndexError) as error:
            return [error] if len(rows) == 1 else [self._together([row])[0] for row in rows]

    def _run(self, rows: Sequence[tuple[list[int], list[int], list[int]]]) -> list[torch.Tensor]:
        """One output for each row, padding of ours taken off again."""
        longest = max(len(ids) for ids, _, _ in rows)
        fills = (self._facts.pad, 0, 0)
        tensors = [
            torch.tensor([row[part] + [fill] * (longest - len(row[part])) for row in rows], dtype=torch.int64)
            for part, fill in enumerate(fills)
        ]
        with torch.inference_mode():
            output = self._model(*tensors)
        by_token = output.dim() > _TENSOR_DIMENSIONS
        return [values[: len(ids)] if by_token else values for values, (ids, _, _) in zip(output, rows, strict=True)]

    def _worded(self, question: Question, values: list[Any]) -> dict[str, Any] | Exception:
        failed = next((value for value in values if isinstance(value, Exception)), None)
        if failed is not None:
            return failed
        if not question.worded:
            return {self._facts.output: [value.tolist() for value in values]}
        scores = _activated(values[0], self._facts.activation).tolist()
        best = max(range(len(scores)), key=scores.__getitem__)
        names = self._labels if len(self._labels) == len(scores) else [f"LABEL_{index}" for index in range(len(scores))]
        return {"label": names[best], "score": scores[best], "scores": dict(zip(names, scores, strict=True))}

    def _from_text(self, body: dict[str, Any]) -> Question:
        unknown = sorted(set(body) - {"text", "text_pair", "raw"})
        if unknown:
            raise BadRequestError(f"a request with text may also have text_pair and raw, not {unknown[0]!r}")
        if self._tokenizer is None:
            raise BadRequestError("this model was built from a source without a tokenizer: send input_ids")
        text, pair, raw = body["text"], body.get("text_pair"), body.get("raw", False)
        for name, value in (("text", text), ("text_pair", pair if "text_pair" in body else "")):
            if not isinstance(value, str):
                raise BadRequestError(f"{name} is {_kind(value)}: write one string, and one request for each text")
        if not isinstance(raw, bool):
            raise BadRequestError(f"raw is {_kind(raw)}: write true for tensors or false for labels")
        if self._facts.output != "logits" and not raw:
            raise BadRequestError('this model has no labels: add "raw": true for the vector of each token')
        try:
            encoding = self._tokenizer.encode(text, pair)
        except (UnicodeError, TypeError) as error:
            raise BadRequestError("text holds half of a character (a lone surrogate): send valid Unicode") from error
        return Question([encoding.ids], [encoding.attention_mask], [encoding.type_ids], worded=not raw)

    def _from_tensors(self, body: dict[str, Any]) -> Question:
        unknown = sorted(set(body) - set(INPUTS))
        if unknown:
            raise BadRequestError(f"tensors are called {', '.join(INPUTS)}, not {unknown[0]!r}")
        ids = _rows("input_ids", body["input_ids"], self._facts.vocabulary)
        shape = [len(row) for row in ids]
        if len(ids) > self._batch:
            raise BadRequestError(
                f"input_ids has {len(ids)} rows, at most {self._batch} are taken (serving.maxBatchSize)"
            )
        if len(set(shape)) > 1:
            raise BadRequestError(f"the rows of input_ids have lengths {shape}: pad them to one length")
        if not 0 < shape[0] <= self._facts.max_length:
            raise BadRequestError(f"rows of {shape[0]} tokens are not taken: write 1 to {self._facts.max_length}")
        mask = self._like(body, "attention_mask", 1, 2, shape)
        return Question(ids, mask, self._like(body, "token_type_ids", 0, self._facts.types, shape))

    @staticmethod
    def _like(body: dict[str, Any], name: str, default: int, limit: int, shape: list[int]) -> list[list[int]]:
        """A tensor of the shape of input_ids; left out, it is `default` everywhere."""
        if name not in body:
            return [[default] * length for length in shape]
        rows = _rows(name, body[name], limit)
        if [len(row) for row in rows] != shape:
            raise BadRequestError(f"{name} has rows of lengths {[len(row) for row in rows]}, input_ids of {shape}")
        return rows


_HOW: Final = 'write {"text": "..."} or {"input_ids": [[...]], "attention_mask": [[...]], "token_type_ids": [[...]]}'


def _tokenizer(path: Path, longest: int, side: str) -> Any | None:  # noqa: ANN401 - tokenizers has no stubs
    if not path.is_file():
        return None
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest, direction=side)
    return tokenizer


def _decoded(body: bytes) -> object:
    """JSON where a client didn't call it so, else text."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequestError(f"the body is no UTF-8 text: {error.reason} at byte {error.start}") from error
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadRequestError(f"the body is no JSON: {error}; {_HOW}") from error


def _rows(name: str, value: object, limit: int) -> list[list[int]]:
    if not isinstance(value, list) or not value or not all(isinstance(row, list) for row in value):
        raise BadRequestError(f"{name} is {_kind(value)}: write a list of rows, e.g. [[101, 7592, 102]]")
    for row in value:
        for entry in row:
            if type(entry) is not int or not 0 <= entry < limit:
                raise BadRequestError(
                    f"{name} holds {json.dumps(entry)[:40]}: write whole numbers from 0 to {limit - 1}"
                )
    return value


def _activated(logits: torch.Tensor, activation: str) -> torch.Tensor:
    if activation == "softmax":
        return torch.softmax(logits, dim=-1)
    return torch.sigmoid(logits) if activation == "sigmoid" else logits


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
