"""How the source model is asked: several texts side by side, yet never so many that a node runs out of memory."""

import threading

import numpy as np
import pytest

from bert_build import answer, processors
from bert_build.samples import Arrays, Sample


class Meeting:
    """A source model that notices whether so many requests are ever asked at once."""

    side_by_side = True

    def __init__(self, parties: int, patience: float) -> None:
        self._barrier = threading.Barrier(parties)
        self._patience = patience
        self.met = False

    def answer(self, request: Arrays) -> Arrays:
        try:
            self._barrier.wait(self._patience)
            self.met = True
        except threading.BrokenBarrierError:
            pass
        return {"logits": request["input_ids"][:, :1].astype(np.float32)}


def text(number: int, length: int) -> Sample:
    ids = np.full((1, length), number)
    return Sample(str(number), {"input_ids": ids, "attention_mask": np.ones_like(ids)})


@pytest.mark.parametrize(
    ("length", "parties", "side_by_side", "met"),
    [(512, 4, True, True), (512, 5, True, False), (513, 2, True, False), (8, 2, False, False)],
)
def test_few_are_asked_at_once_and_long_ones_alone(
    monkeypatch: pytest.MonkeyPatch, length: int, parties: int, *, side_by_side: bool, met: bool
) -> None:
    monkeypatch.setattr(processors, "count", lambda: 64)
    model = Meeting(parties, 10 if met else 0.2)
    model.side_by_side = side_by_side
    wanted = [text(number, length) for number in range(8)]
    found = list(answer._all_asked(model, wanted))
    assert [float(one.answer["logits"].item()) for one in found] == list(range(8))
    assert model.met is met
