"""Texts that an archive is asked, and its tokenizer: the real library tokenizers, transformers and torch made up."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bert_build import texts
from bert_build.failures import BuildError
from bert_operator.api.report import ExitCode
from unit.bert_build import building

WORDS = sorted({word for sentence in texts.SENTENCES for word in sentence.split()})
LENGTH = 8


def word_tokenizer() -> Tokenizer:
    """A token for each word."""
    vocabulary = {name: number for number, name in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


class SlowTokenizer:
    """As transformers loads it: truncates at the side that tokenizer_config.json names."""

    truncation_side = "left"

    def __call__(self, *words: str, max_length: int, **_: Any) -> dict[str, Any]:
        made = word_tokenizer()
        made.enable_truncation(max_length, direction=self.truncation_side)
        encoding = made.encode(*words)
        return {"input_ids": np.array([encoding.ids]), "token_type_ids": np.array([encoding.type_ids])}


class FastTokenizer(SlowTokenizer):
    backend_tokenizer = object()


def transformers(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    module: Any = ModuleType("transformers")
    module.AutoTokenizer = SimpleNamespace(from_pretrained=load)
    monkeypatch.setitem(sys.modules, "transformers", module)


@pytest.mark.parametrize("message", ["data did not match any variant\nat line 1", "", "\n"])
def test_a_tokenizer_that_cant_be_loaded_is_no_model_without_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise Exception(message)  # noqa: TRY002 - as tokenizers does

    transformers(monkeypatch, broken)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BuildError, match=r"tokenizer\.json can't be loaded: (data did not match|Exception)") as caught:
        texts.tokenizer(tmp_path)
    assert caught.value.code is ExitCode.USER_ERROR
    assert "or remove tokenizer.json and vocab.txt" in caught.value.next_step


def test_a_tokenizer_that_the_server_couldnt_run_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers(monkeypatch, lambda *_, **__: SlowTokenizer())
    (tmp_path / "vocab.txt").write_text("a")
    with pytest.raises(BuildError, match=r"vocab\.txt can't be loaded: SlowTokenizer has no fast version"):
        texts.tokenizer(tmp_path)


def test_a_source_without_a_tokenizer_has_no_texts(tmp_path: Path) -> None:
    assert texts.tokenizer(tmp_path) is None
    assert list(texts.samples(tmp_path, building.build())) == []


def handler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that an archive holds, without torch."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=object))
    folder = "bert_build.handlers.torchserve"
    monkeypatch.setitem(sys.modules, "bert_answers", importlib.import_module(f"{folder}.bert_answers"))
    monkeypatch.delitem(sys.modules, f"{folder}.bert_answers")
    monkeypatch.delitem(sys.modules, f"{folder}.served_bert", raising=False)
    served_bert = importlib.import_module(f"{folder}.served_bert")
    monkeypatch.delitem(sys.modules, f"{folder}.served_bert")
    return served_bert


def test_no_body_is_nested_too_deeply_to_be_refused_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other error would fail every request of its batch."""
    served_bert = handler(monkeypatch)
    # At some of these depths the parser gets through and what comes after it would not.
    for depth in (1, *range(900, 1000), 20_000):
        body = b'{"input_ids": [[' + b"[" * depth + b"]" * depth + b"]]}"
        with pytest.raises(served_bert.BadRequestError, match=r"input_ids holds a list|the body is no JSON"):
            served_bert._rows("input_ids", served_bert._decoded(body)["input_ids"], 10)


def test_an_archive_that_cuts_from_the_wrong_end_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's own tokenizer, asked what `compare` and `verify` ask."""
    transformers(monkeypatch, lambda *_, **__: FastTokenizer())
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps(building.CONFIG))
    served_bert = handler(monkeypatch)

    asked = list(texts.samples(tmp_path, building.build(maxSequenceLength=LENGTH)))

    for side in ("left", "right"):
        made = served_bert._tokenizer(tmp_path / "tokenizer.json", LENGTH, side)
        words = [[str(one.inputs[name][0]) for name in ("text", "text_pair") if name in one.inputs] for one in asked]
        alike = [
            made.encode(*each).ids == one.inputs["input_ids"][0].tolist()
            for each, one in zip(words, asked, strict=True)
        ]
        assert all(alike) == (side == "left")
        assert asked[-1].inputs["input_ids"].shape == (1, LENGTH)
