"""How an artifact is asked about a text: alone, padded, in a batch with others. Pure; called by fidelity and stage.

The source model was asked each text alone and unpadded. Whatever a server does with the text must give that answer.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

import numpy as np

from bert_build import samples
from bert_build.samples import Arrays, Sample
from bert_operator.api.spec import Build, Format

_ROWS: Final = (2, 4)
"""Texts in a mixed batch, at least and at most."""
_BATCH_TOKENS: Final = 256
"""What a mixed batch of more than the fewest texts may hold: tokens cost time, minutes for BERT-large."""
_SHORT: Final = 128
"""Texts up to this length are padded to the next bucket, and mixed with others."""


class Kind(StrEnum):
    """In what company a text is asked."""

    ALONE = "alone"
    PADDED = "padded"
    MIXED = "mixed"


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """One request to the artifact."""

    kind: Kind
    sample: Sample
    texts: tuple[int, ...]
    """Which text each row holds."""


def arrange(texts: Sequence[Sample], build: Build, pad: int) -> Iterator[Arrangement]:
    """Every request, always in the same order.

    Args:
        texts: each alone and unpadded, [1, tokens].
        build: says the buckets, and the largest batch of an engine.
        pad: id that fills unused positions.
    """
    for index, text in enumerate(texts):
        yield Arrangement(Kind.ALONE, text, (index,))
    plain = [index for index, text in enumerate(texts) if of_tokens(text.inputs)]
    rows = build.engine_batch if build.format is Format.TENSORRT else max(_ROWS)
    groups = list(_groups(_mixed(plain, texts, build), texts, rows))
    shown = {length for group in groups if (length := _shown([_length(texts[index]) for index in group])) > _SHORT}
    # A trace may have kept something of any length; every other format is one graph for all of them.
    buckets = samples.buckets(build) if build.format is Format.TORCHSCRIPT else samples.compared(build)
    for index, length in _paddings([(index, _length(texts[index])) for index in plain], buckets, shown):
        yield Arrangement(Kind.PADDED, padded(texts[index], length, pad), (index,))
    for group in groups:
        length = max(_length(texts[index]) for index in group)
        name = f"a batch of {len(group)}: {'; '.join(texts[index].name for index in group)}"
        yield Arrangement(Kind.MIXED, _joined([texts[index] for index in group], length, pad, name), tuple(group))


_TENSORS: Final = ("input_ids", "attention_mask", "token_type_ids")


def of_tokens(inputs: Mapping[str, object]) -> bool:
    """Whether a request is tensors of tokens alone.

    One that brings its words is tokenised by the artifact itself, which pads it as it likes.
    """
    return set(inputs) <= set(_TENSORS)


def padded(text: Sample, length: int, pad: int) -> Sample:
    """A text with unused positions behind it, [1, length]."""
    return _joined([text], length, pad, f"{text.name}, padded to {length}")


def _paddings(
    lengths: Sequence[tuple[int, int]], buckets: Sequence[int], shown: Collection[int]
) -> list[tuple[int, int]]:
    """Which text is padded to which length: every one to the next bucket, a short one wherever no other is.

    Args:
        lengths: number and tokens of each text.
        buckets: in order.
        shown: lengths to which a mixed batch pads a short text anyway: long ones cost time, and are asked once.
    """
    found: dict[tuple[int, int], None] = {}
    reached = set(shown)
    for index, length in lengths:
        above = [bucket for bucket in buckets if bucket > length]
        if above and above[0] <= _SHORT:
            found[index, above[0]] = None
            # One token alone says least about what padding does to it.
            reached |= {above[0]} if length > 1 else set()
    short = min((pair for pair in lengths if pair[1] > 1), key=lambda pair: pair[1], default=None)
    if short:
        found |= dict.fromkeys((short[0], bucket) for bucket in buckets if bucket > short[1] and bucket not in reached)
    return list(found)


def _mixed(plain: Sequence[int], texts: Sequence[Sample], build: Build) -> list[int]:
    """Which texts are asked in batches: all, but for long ones of ours where one graph serves every length.

    An engine has other kernels for other shapes, and asking it costs little.
    """
    own = build.fidelity.samples or build.fidelity.samples_from
    short = [index for index in plain if _length(texts[index]) <= _SHORT]
    return list(plain) if own or build.format is Format.TENSORRT or len(short) < _ROWS[0] else short


def _shown(lengths: Sequence[int]) -> int:
    """The length to which a mixed batch pads a text of more than one token; 0 if it doesn't."""
    return max(lengths) if any(1 < length < max(lengths) for length in lengths) else 0


def _groups(plain: Sequence[int], texts: Sequence[Sample], most: int) -> Iterator[list[int]]:
    """Batches in which the longest text left meets the shortest ones left."""
    order = sorted(plain, key=lambda index: _length(texts[index]))
    if order and _length(texts[order[0]]) == 1:
        # The longest ones meet texts that show more of what padding does than a single token.
        order.insert(2, order.pop(0))
    shortest = order[:1]
    while order and len(plain) > 1 and most > 1:
        fitting = max(_ROWS[0], min(_ROWS[1], _BATCH_TOKENS // _length(texts[order[-1]])))
        rows = min(most, fitting, len(order))
        # The last one may be left alone: it meets the shortest once more.
        yield [*(order[: rows - 1] or shortest), order[-1]]
        order = order[rows - 1 : -1]


def _length(text: Sample) -> int:
    return int(text.inputs["input_ids"].shape[1])


def _joined(texts: Sequence[Sample], length: int, pad: int, name: str) -> Sample:
    """One request [texts, length]."""
    inputs: Arrays = {}
    for tensor in texts[0].inputs:
        filler = pad if tensor == "input_ids" else 0
        inputs[tensor] = np.full((len(texts), length), filler, dtype=np.int64)
        for row, text in enumerate(texts):
            inputs[tensor][row, : _length(text)] = text.inputs[tensor][0]
    return Sample(name, inputs)
