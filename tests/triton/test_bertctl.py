"""`bertctl predict` asks the real tritonserver and says what its answers mean."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from support import published
from support.command_line import bertctl

from .conftest import SHAPE, TOKENS_SHAPE, Scene

pytestmark = pytest.mark.e2e
TEXTS = ("good very good", "bad")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A model's folder as far as clients need it: tokenizer.json and the labels of config.json."""
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "good", "bad", "very"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106 - a word, no secret
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "NEGATIVE", "1": "POSITIVE"}}))
    return tmp_path


def test_texts_get_the_label_and_score_that_the_model_gives(scene: Scene, tokenizer: Path) -> None:
    ran = bertctl(
        *("predict", "sentiment", "--server", "triton", "--address", scene.server.grpc, "--tokenizer", tokenizer),
        *("--text", TEXTS[0], "--text", TEXTS[1], "-o", "json"),
    )
    assert ran.code == 0, ran.err
    inputs = {
        "input_ids": np.array([[2, 4, 2], [3, 0, 0]]),
        "attention_mask": np.array([[1, 1, 1], [1, 0, 0]]),
        "token_type_ids": np.zeros((2, 3), np.int64),
    }
    logits = scene.part("sentiment")[1].answer(inputs)["logits"].astype(np.float64)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = json.loads(ran.out)["predictions"]
    assert [each["text"] for each in found] == list(TEXTS)
    names = ["NEGATIVE", "POSITIVE"]
    assert [each["label"] for each in found] == [names[best] for best in scores.argmax(axis=1)]
    assert np.allclose([[each["scores"][name] for name in names] for each in found], scores, atol=1e-5)


def test_an_encoder_says_how_alike_the_sentences_are(scene: Scene, tokenizer: Path) -> None:
    ran = bertctl(
        *("predict", "embedder", "--server", "triton", "--address", scene.server.grpc, "--version", "7"),
        *("--tokenizer", tokenizer / "tokenizer.json", "--text", TEXTS[0], "--text", TEXTS[0], "-o", "json"),
    )
    assert ran.code == 0, ran.err
    assert np.allclose(json.loads(ran.out)["cosines"], 1, atol=1e-5)


def test_tensors_come_back_as_the_model_answers_them(scene: Scene, tmp_path: Path) -> None:
    inputs = published.tokens(3, 8, TOKENS_SHAPE)
    (tmp_path / "in.json").write_text(json.dumps({name: array.tolist() for name, array in inputs.items()}))
    ran = bertctl(
        *("predict", "embedder", "--server", "triton", "--address", scene.server.grpc, "--version", "7"),
        *("--json", tmp_path / "in.json", "-o", "json"),
    )
    assert ran.code == 0, ran.err
    expected = scene.part("embedder")[1].answer(inputs)["last_hidden_state"]
    real = inputs["attention_mask"].astype(bool)
    assert np.allclose(np.array(json.loads(ran.out)["outputs"]["last_hidden_state"])[real], expected[real], atol=1e-4)


def test_what_the_server_refuses_is_told_in_its_words(scene: Scene, tmp_path: Path) -> None:
    inputs = published.tokens(1, SHAPE.longest, SHAPE)
    (tmp_path / "in.json").write_text(json.dumps({"words": inputs["input_ids"].tolist()}))
    ran = bertctl(
        "predict", "sentiment", "--server", "triton", "--address", scene.server.grpc, "--json", tmp_path / "in.json"
    )
    assert ran.code == 1
    assert "triton refused the request" in ran.err
    assert "words" in ran.err
