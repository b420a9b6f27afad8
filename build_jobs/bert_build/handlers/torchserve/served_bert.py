"""A BERT out of an unpacked .mar: reads requests, runs them in batches, gives answers. Nothing of TorchServe in it.

It travels inside each .mar beside bert_handler.py and bert_answers.py, which words the answers to texts. The build's
step `compare` asks the artifact through this very file.
One request never spoils another of its batch: what can't be read is refused by itself, before anything runs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import bert_answers
import tokenizers
import torch

MODEL_FILE: Final = "model.pt"
TOKENIZER_FILE: Final = "tokenizer.json"
LABELS_FILE: Final = "index_to_name.json"
ALIASES: Final = {"question": "text", "context": "text_pair"}
"""What the parts of a question's request may be called as well."""


class BadRequestError(Exception):
    """A request that can't be answered; the text says why and what to write instead."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the build knows of the model: the section `handler` of model-config.yaml."""

    task: str
    """`build.task` of the spec."""
    inputs: tuple[str, ...]
    """Of the model, in its order; all int64 [batch, length]."""
    outputs: Mapping[str, bool]
    """Name of each output of the model, in its order -> whether it has a value for every token."""
    max_length: int
    """Longest row in tokens; longer texts are cut, longer tensors refused."""
    vocabulary: int
    types: int
    """How many kinds of segments there are."""
    pad: int
    mask: int | None
    """The id of the mask token, if the task is to fill it in."""
    activation: str
    """What turns logits into scores: `softmax`, `sigmoid` or `none`."""
    lengths: tuple[int, ...]
    """Run once each before the model turns ready."""
    truncation_side: str
    """From which end longer texts are cut: `right` or `left`."""

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "Facts":
        """Read the section."""
        return cls(**{**section, "inputs": tuple(section["inputs"]), "lengths": tuple(section["lengths"])})


@dataclass(frozen=True)
class Question:
    """One request as token ids, one list for each row."""

    ids: list[list[int]]
    mask: list[list[int]]
    types: list[list[int]]
    words: bert_answers.Words | None = None
    """The text, if it is answered in words instead of tensors."""


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
        self._takes_types = "token_type_ids" in facts.inputs
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
        if "text" in body or (self._facts.task == bert_answers.QUESTIONS and "question" in body):
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

    def _run(self, rows: Sequence[tuple[list[int], list[int], list[int]]]) -> list[dict[str, torch.Tensor]]:
        """The outputs of each row, padding of ours taken off again."""
        longest = max(len(ids) for ids, _, _ in rows)
        fills = {"input_ids": self._facts.pad, "attention_mask": 0, "token_type_ids": 0}
        tensors = [
            torch.tensor([row[part] + [fill] * (longest - len(row[part])) for row in rows], dtype=torch.int64)
            for part, (name, fill) in enumerate(fills.items())
            if name in self._facts.inputs
        ]
        with torch.inference_mode():
            found = dict(zip(self._facts.outputs, self._model(*tensors), strict=True))
        return [
            {
                name: values[row][: len(ids)] if self._facts.outputs[name] else values[row]
                for name, values in found.items()
            }
            for row, (ids, _, _) in enumerate(rows)
        ]

    def _worded(self, question: Question, values: list[Any]) -> dict[str, Any] | Exception:
        failed = next((value for value in values if isinstance(value, Exception)), None)
        if failed is not None:
            return failed
        if question.words is None:
            return {name: [value[name].tolist() for value in values] for name in self._facts.outputs}
        how = bert_answers.How(self._labels, self._facts.activation, self._facts.mask, self._tokenizer)
        worded: dict[str, Any] = bert_answers.ANSWERS[self._facts.task](values[0], question.words, how)
        return worded

    def _from_text(self, body: dict[str, Any]) -> Question:
        if self._tokenizer is None:
            raise BadRequestError("this model was built from a source without a tokenizer: send input_ids")
        text, pair, raw = _parts(body, ALIASES if self._facts.task == bert_answers.QUESTIONS else {})
        try:
            encoding = self._tokenizer.encode(text, pair)
        except (UnicodeError, TypeError) as error:
            raise BadRequestError("text holds half of a character (a lone surrogate): send valid Unicode") from error
        words = None if raw else bert_answers.Words(text, pair, encoding)
        if words is not None:
            self._refuse_wordless(words)
        return Question([encoding.ids], [encoding.attention_mask], [encoding.type_ids], words)

    def _refuse_wordless(self, words: bert_answers.Words) -> None:
        """Texts that this task can't answer in words."""
        task = self._facts.task
        if task not in bert_answers.ANSWERS or (
            task == bert_answers.VECTORS and bert_answers.EMBEDDING not in self._facts.outputs
        ):
            raise BadRequestError('this model has no labels: add "raw": true for the vector of each token')
        if task == bert_answers.QUESTIONS and words.pair is None:
            raise BadRequestError('this model answers questions: write {"question": "...", "context": "..."}')
        if task == bert_answers.MASKS and words.encoding.ids.count(self._facts.mask) != 1:
            mask = self._tokenizer.id_to_token(self._facts.mask) if self._tokenizer is not None else "the mask token"
            raise BadRequestError(f"this model fills in {mask}: write it once into the text")

    def _from_tensors(self, body: dict[str, Any]) -> Question:
        unknown = sorted(set(body) - set(self._facts.inputs))
        if unknown:
            raise BadRequestError(f"tensors are called {', '.join(self._facts.inputs)}, not {unknown[0]!r}")
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
        limit = self._facts.types if self._takes_types else 1
        return Question(ids, mask, self._like(body, "token_type_ids", 0, limit, shape))

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


def _parts(body: dict[str, Any], aliases: Mapping[str, str]) -> tuple[str, str | None, bool]:
    """Text, second text and whether tensors are wanted.

    Raises:
        BadRequestError: one is of the wrong kind, or there is something else.
    """
    body = {aliases.get(name, name): value for name, value in body.items()}
    unknown = sorted(set(body) - {"text", "text_pair", "raw"})
    if unknown:
        raise BadRequestError(f"a request with text may also have text_pair and raw, not {unknown[0]!r}")
    for name in ("text", "text_pair"):
        if (name in body or name == "text") and not isinstance(body.get(name), str):
            raise BadRequestError(f"{name} is {_kind(body.get(name))}: write one string, and one request for each text")
    raw = body.get("raw", False)
    if not isinstance(raw, bool):
        raise BadRequestError(f"raw is {_kind(raw)}: write true for tensors or false for labels")
    return body["text"], body.get("text_pair"), raw


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
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is no JSON: {error}; {_HOW}") from error


def _rows(name: str, value: object, limit: int) -> list[list[int]]:
    if not isinstance(value, list) or not value or not all(isinstance(row, list) for row in value):
        raise BadRequestError(f"{name} is {_kind(value)}: write a list of rows, e.g. [[101, 7592, 102]]")
    for row in value:
        for entry in row:
            if type(entry) is not int or not 0 <= entry < limit:
                found = _kind(entry) if isinstance(entry, list | dict) else json.dumps(entry)[:40]
                raise BadRequestError(f"{name} holds {found}: write whole numbers from 0 to {limit - 1}")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
