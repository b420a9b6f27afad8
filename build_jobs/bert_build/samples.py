"""The requests with which an artifact is compared with its source model. Called by fidelity; runs no model.

Real sentences if the source has a tokenizer, else ids drawn from its vocabulary; always the same for the same source.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from bert_build import progress
from bert_build.config_checks import Config
from bert_build.failures import BuildError
from bert_operator.api.spec import Build, Task

Arrays = dict[str, np.ndarray[Any, Any]]
"""Tensors of one request or answer by name, batch axis included."""

SENTENCES: Final = (
    "The quick brown fox jumps over the lazy dog.",
    "In 1969, two astronauts walked on the Moon while a third waited in orbit.",
    "I can't believe how good this coffee is, although it cost $4.50!",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Please restart the server after the configuration has been changed; otherwise the old values stay active.",
    "Le petit chat dort sur le canapé pendant que la pluie tombe.",
    "Photosynthesis converts light energy into chemical energy that later fuels the organism's activities.",
    "Ugh... worst. movie. ever. I want my two hours back :(",
    "The committee will meet on Thursday, 12 March, at 3:30 p.m. in room B-204.",
    "If x > 0 and y < 10, then f(x, y) returns the larger of both values.",
    "El banco cerró la cuenta sin avisar al cliente, y nadie contesta al teléfono.",
    "Быстрая коричневая лиса перепрыгивает через ленивую собаку.",
    "今日は天気がいいので、公園まで散歩に行きます。",
    "المكتبة مفتوحة كل يوم ما عدا يوم الجمعة.",
    "这家餐厅的服务很好 但是价格有点贵。",
    "क्या आप मुझे स्टेशन का रास्ता बता सकते हैं?",
)

SEED: Final = 20240229
_FRAMES: Final = (("[CLS]", "[SEP]"), ("<s>", "</s>"))
"""What begins and ends a text."""
_MASKS: Final = ("[MASK]", "<mask>")
_SHORT: Final = 128
_COMMON: Final = 1000
"""BERT vocabularies keep their special and unused entries below this."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One request; `real` tells where its rows are not padding."""

    name: str
    inputs: Arrays

    @property
    def real(self) -> "np.ndarray[Any, Any]":
        """True for positions that are no padding, [batch, length]."""
        return np.asarray(self.inputs["attention_mask"] == 1)


class Tokens:
    """An endless supply of plausible token ids."""

    def __init__(
        self, config: Config, stream: list[int], frame: tuple[int, int] | None, mask: int | None = None
    ) -> None:
        self._config = config
        self._mask = mask
        self._stream = stream
        self._frame = frame
        self._place = 0

    @property
    def pad(self) -> int:
        """The id that fills unused positions."""
        pad = self._config.pad_token_id or 0
        return pad if 0 <= pad < self._config.vocab_size else 0

    @property
    def types(self) -> int:
        """How many kinds of segments the model knows."""
        return self._config.type_vocab_size if "token_type_ids" in self._config.inputs else 1

    def request(
        self, ids: "np.ndarray[Any, Any]", mask: "np.ndarray[Any, Any]", types: "np.ndarray[Any, Any]"
    ) -> Arrays:
        """What the model is asked, of int64 tensors [batch, length]: no tensor that it doesn't know.

        A row that asks for no masked token, where the task is to fill one in, gets one in its middle.
        """
        if self._mask is not None:
            ids = ids.copy()
            for row, used in zip(ids, mask.sum(axis=1), strict=True):
                if self._mask not in row[:used]:
                    row[used // 2] = self._mask
        tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: tensors[name] for name in self._config.inputs}

    @property
    def vocabulary(self) -> int:
        """How many ids the model knows."""
        return self._config.vocab_size

    def take(self, length: int) -> list[int]:
        """The next `length` ids, framed like a sentence if there is room and the frame is known."""
        if self._frame is not None and length > len(self._frame):
            return [self._frame[0], *self._next(length - len(self._frame)), self._frame[1]]
        return self._unlike_padding(self._next(length))

    def _unlike_padding(self, taken: list[int]) -> list[int]:
        """No row of a BERT ends in the id it begins with: an end like this is what TF Serving pads rows with."""
        for other in self._stream:
            if len(taken) > 1 and taken[-1] == taken[0]:
                taken[-1] = other
        return taken

    def _next(self, length: int) -> list[int]:
        taken = [self._stream[(self._place + offset) % len(self._stream)] for offset in range(length)]
        self._place += length
        return taken


def tokens(folder: Path, config: Config) -> tuple[Tokens, str]:
    """Token ids for a source model, and where they come from."""
    known_words = tokenizer(folder)
    mask = mask_token(folder, config) if config.task is Task.FILL_MASK else None
    if known_words is not None:
        stream = [token for text in SENTENCES for token in known_words.encode(text, add_special_tokens=False).ids]
        if stream and max(stream) < config.vocab_size:
            found = [tuple(map(known_words.token_to_id, names)) for names in _FRAMES]
            frame = next((ids for ids in found if None not in ids and max(ids) < config.vocab_size), None)
            return Tokens(config, stream, frame, mask), "sentences, by the model's tokenizer"
    generator = np.random.default_rng(SEED)
    first = _COMMON if config.vocab_size > 2 * _COMMON else min(5, config.vocab_size - 1)
    drawn = generator.integers(first, config.vocab_size, size=4096).tolist()
    return Tokens(config, drawn, None, mask), "ids drawn from the vocabulary (no usable tokenizer in the source)"


def mask_token(folder: Path, config: Config) -> int:
    """The id of the token that stands for a masked one.

    Raises:
        BuildError: the source has no tokenizer that names it.
    """
    known = tokenizer(folder)
    found = [known.token_to_id(name) for name in (mask_name(folder), *_MASKS)] if known is not None else []
    for number in found:
        if number is not None and 0 <= number < config.vocab_size:
            return int(number)
    raise BuildError(
        "TokenizerMissing",
        "build.task is fill-mask, and the source has no tokenizer that names its mask token.",
        "Add the model's tokenizer.json (a fast tokenizer's `save_pretrained` writes it) to the source.",
    )


def mask_name(folder: Path) -> str:
    """How texts spell the mask token: as tokenizer_config.json says, else `[MASK]`."""
    try:
        told = json.loads((folder / "tokenizer_config.json").read_bytes())["mask_token"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        told = None
    return str(told.get("content") if isinstance(told, dict) else told or _MASKS[0])


def compared(build: Build) -> list[int]:
    """Lengths to compare at: those of the spec, else powers of two up to 128; always the longest as well.

    Nothing of an encoder begins between 128 tokens and the longest input unless the spec names it, and long requests
    cost most of a build's time.
    """
    return (
        buckets(build)
        if build.sequence_buckets
        else [*(n for n in buckets(build)[:-1] if n <= _SHORT), build.max_sequence_length]
    )


def buckets(build: Build) -> list[int]:
    """Lengths to serve: those of the spec, else powers of two; always the longest as well."""
    longest = build.max_sequence_length
    derived = [length for length in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if length < longest]
    wished = [length for length in build.sequence_buckets or derived if length <= longest]
    return sorted({*wished, longest})


def golden(supply: Tokens, build: Build) -> Iterator[Sample]:
    """Few and small requests of batch size one, kept with the artifact and sent to every server that loads it."""
    longest = build.max_sequence_length
    for length, used in ((8, 8), (16, 11), (32, 32), (64, 40)):
        if length <= longest:
            yield _sample(f"length {used} padded to {length}", supply, length, [used])


def _sample(name: str, supply: Tokens, length: int, used: list[int]) -> Sample:
    shape = (len(used), length)
    ids = np.full(shape, supply.pad, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64)
    for row, count in enumerate(used):
        ids[row, :count] = supply.take(count)
        mask[row, :count] = 1
        if supply.types > 1:
            types[row, count - count // 2 : count] = 1
    return Sample(name, supply.request(ids, mask, types))


def tokenizer(folder: Path) -> Any | None:  # noqa: ANN401 - tokenizers has no stubs
    """The source's tokenizer, None if it has none that works: it is not needed to build."""
    import tokenizers  # noqa: PLC0415 - only compare needs it
    from tokenizers import implementations  # noqa: PLC0415

    try:
        if (folder / "tokenizer.json").is_file():
            found = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            found.no_padding()
            found.no_truncation()
            return found
        if (folder / "vocab.txt").is_file():
            return implementations.BertWordPieceTokenizer(str(folder / "vocab.txt"))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        progress.say("compare", f"the tokenizer can't be used: {error}")
    return None
