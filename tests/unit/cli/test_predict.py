"""What `bertctl predict` sends and makes of the answers. tests/triton asks a real server."""

import argparse
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from bert_build.clients import NotYetError, RefusedError
from bert_operator.api.report import ServedModel, TensorSpec
from bert_operator.api.spec import BertModel
from bert_operator.cli import answers, predict, target, tokens
from bert_operator.cli.terminal import FailureError
from bert_operator.cli.tokens import Labels
from support import builders
from support.command_line import bertctl

Arrays = Mapping[str, npt.NDArray[Any]]
IDS = np.array([[1, 2], [3, 0], [4, 0]])
MASK = np.array([[1, 1], [1, 0], [1, 0]])


class Doubler:
    """A server that answers twice the token ids, and notes what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[Arrays] = []
        self.error, self.closed = error, False

    def ready(self, _model: ServedModel) -> bool:
        return True

    def infer(self, _model: ServedModel, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        if self.error:
            raise self.error
        self.asked.append(inputs)
        return {"logits": inputs["input_ids"].astype(np.float32) * 2}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Doubler:
    made = Doubler()
    monkeypatch.setattr(predict, "connect", lambda *_: made)
    return made


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    made = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))  # noqa: S106 - a word, no secret
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def served(**changes: Any) -> ServedModel:
    plain = {"name": "m", "version": 1, "path": "", "artifact": "", "manifest_sha256": "", "max_batch_size": 8}
    return ServedModel(**(plain | changes))


def ask(*words: str | Path) -> Any:
    return bertctl("predict", "m", "--server", "triton", "--address", "localhost:1", *words)


def tensor_file(folder: Path, value: Any) -> Path:
    file = folder / "in.json"
    file.write_text(json.dumps(value))
    return file


def test_a_batch_larger_than_the_server_takes_is_sent_in_parts(server: Doubler) -> None:
    asked = target.Target(server="triton", address="x:1", served=served(max_batch_size=2))
    outputs = predict._ask(asked, {"input_ids": IDS, "attention_mask": MASK})
    assert [len(each["input_ids"]) for each in server.asked] == [2, 1]
    assert outputs["logits"].tolist() == (IDS * 2).tolist()
    assert server.closed


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NotYetError("connection refused"), "error: triton at localhost:1 doesn't answer: connection refused"),
        (RefusedError("no model m"), "error: triton refused the request: no model m"),
    ],
)
def test_a_server_that_gives_no_answer_is_an_error_in_its_words(
    server: Doubler, tmp_path: Path, error: Exception, says: str
) -> None:
    server.error = error
    ran = ask("--json", tensor_file(tmp_path, {"input_ids": IDS.tolist()}))
    assert (ran.code, ran.out, ran.err.strip()) == (1, "", says)
    assert server.closed


@pytest.mark.usefixtures("server")
def test_tensors_keep_their_kind_and_the_table_has_a_row_for_each(tmp_path: Path) -> None:
    ran = ask("--json", tensor_file(tmp_path, {"input_ids": IDS.tolist()}))
    assert ran.out.splitlines()[1].split() == ["row", "1", "class", "1", "0.8808"]
    assert len(ran.out.splitlines()) == 4
    assert json.loads(ask("--json", tmp_path / "in.json", "-o", "json").out)["outputs"]["logits"] == [
        [2, 4],
        [6, 0],
        [8, 0],
    ]


@pytest.mark.parametrize(
    "written",
    [
        [[1, 2]],
        {},
        {"input_ids": [1, 2]},
        {"input_ids": [[1], [2, 3]]},
        {"input_ids": [["a"]]},
        {"a": [[1]], "b": [[1], [2]]},
    ],
)
@pytest.mark.usefixtures("server")
def test_a_file_that_holds_no_tensors_is_refused_with_an_example(tmp_path: Path, written: Any) -> None:
    ran = ask("--json", tensor_file(tmp_path, written))
    assert ran.code == 1
    assert 'write {"input_ids": [[101, 102]], "attention_mask": [[1, 1]], ...}' in ran.err


def test_texts_need_a_tokenizer_that_can_be_read(server: Doubler, tmp_path: Path) -> None:
    assert "give --tokenizer with the model's tokenizer.json" in ask("--text", "good").err
    assert "there is no tokenizer.json" in ask("--text", "good", "--tokenizer", tmp_path).err
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "isn't a tokenizer.json" in ask("--text", "good", "--tokenizer", tmp_path).err
    assert server.asked == []


def test_without_the_package_tokenizers_the_message_names_it(
    server: Doubler, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert "pip install 'bert-operator[cli]'" in ask("--text", "good", "--tokenizer", tokenizer).err
    assert server.asked == []


def test_texts_are_cut_and_padded_as_the_artifact_wants_and_only_its_inputs_are_sent(tokenizer: Path) -> None:
    inputs = [TensorSpec(name=name, dtype="INT32", dims=[4]) for name in ("input_ids", "attention_mask")]
    report = builders.report(inputs=inputs, max_sequence_length=4)
    found = tokens.encode(str(tokenizer), ["good bad good bad good", "bad"], report)
    assert found["input_ids"].tolist() == [[2, 3, 2, 3], [3, 0, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert found["input_ids"].dtype == np.int32
    assert found.keys() == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("where", ["tokenizer.json", "tokenizer_config.json"])
def test_a_text_that_is_too_long_is_cut_where_the_tokenizer_says(tokenizer: Path, where: str) -> None:
    if where == "tokenizer.json":
        made = Tokenizer.from_file(str(tokenizer / where))
        made.enable_truncation(512, direction="left")
        made.save(str(tokenizer / where))
    else:
        (tokenizer / where).write_text('{"truncation_side": "left"}')
    found = tokens.encode(str(tokenizer), ["bad good good good"], builders.report(max_sequence_length=3))
    assert found["input_ids"].tolist() == [[2, 2, 2]]


def test_an_input_that_no_tokenizer_gives_is_named(tokenizer: Path) -> None:
    report = builders.report(inputs=[TensorSpec(name="pixel_values", dtype="FP32", dims=[3])])
    with pytest.raises(FailureError, match="the model wants pixel_values"):
        tokens.encode(str(tokenizer), ["good"], report)


def test_labels_come_from_the_config_beside_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"id2label": {"1": "POSITIVE", "0": "NEGATIVE"}}')
    assert tokens.labels(str(tmp_path)) == Labels(names=("NEGATIVE", "POSITIVE"))
    assert tokens.labels(str(tmp_path / "tokenizer.json")) == Labels(names=("NEGATIVE", "POSITIVE"))
    (tmp_path / "config.json").write_text("{")
    assert tokens.labels(str(tmp_path)) == Labels()


def test_one_label_of_all_or_each_by_itself() -> None:
    logits = {"logits": np.array([[0.0, 2.0]], np.float32)}
    one = answers.meaning(["a"], {}, logits, Labels(names=("no", "yes")))["predictions"][0]
    each = answers.meaning(["a"], {}, logits, Labels(names=("no", "yes"), several=True))["predictions"][0]
    assert (one["label"], round(one["score"], 3), round(sum(one["scores"].values()), 5)) == ("yes", 0.881, 1)
    assert (each["scores"]["no"], round(each["scores"]["yes"], 3)) == (0.5, 0.881)


def test_padding_has_no_part_in_a_sentence() -> None:
    hidden = np.array([[[1, 0], [0, 1]], [[1, 0], [9, 9]]], np.float32)
    found = answers.meaning(
        ["a", "b"], {"attention_mask": np.array([[1, 0], [1, 0]])}, {"last_hidden_state": hidden}, Labels()
    )
    assert found["cosines"] == [[1, 1], [1, 1]]
    assert answers.text(found, {}).splitlines()[1].split() == ["(1)", "a", "1.000", "1.000"]


def test_each_task_is_told_in_its_own_words() -> None:
    ids, mask = np.array([[1, 2, 3, 0]]), np.array([[1, 1, 1, 0]])
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.array([[0, 1, 1, 0]])}
    name = ["[PAD]", "who", "in", "Bonn"].__getitem__
    tags = np.array([[[9, 0], [9, 0], [0, 9], [0, 9]]], np.float32)
    tagged = answers.meaning(["a"], inputs, {"logits": tags}, Labels(names=("O", "LOC")), name)
    assert [(one["token"], one["label"]) for one in tagged["tags"][0]["tokens"]] == [
        ("who", "O"),
        ("in", "O"),
        ("Bonn", "LOC"),
    ]
    # The best start of all is in the question, where no answer stands.
    spans = {"start_logits": np.array([[9.0, 1, 5, 0]]), "end_logits": np.array([[0.0, 0, 5, 9]])}
    found = answers.meaning(["who?"], inputs, spans, Labels(), name)["spans"][0]
    assert (found["answer"], found["first_token"], found["last_token"]) == ("Bonn", 2, 2)
    fills = answers.meaning(["a"], inputs, {"mask_logits": np.array([[0.0, 1, 2, 7]])}, Labels(), name)["fills"][0]
    assert [one["token"] for one in fills["tokens"]] == ["Bonn", "in", "who", "[PAD]"]
    pooled = {"sentence_embedding": np.array([[1.0, 0]]), "last_hidden_state": np.zeros((1, 4, 2))}
    assert answers.meaning(["a"], inputs, pooled, Labels(), name)["cosines"] == [[1]]
    for told, word in ((tagged, "LOC"), ({"spans": [found]}, "Bonn"), ({"fills": [fills]}, "Bonn")):
        assert word in answers.text(told, {})


def test_what_has_no_meaning_here_shows_shapes_and_first_values() -> None:
    outputs = {"pooled": np.arange(8, dtype=np.float32).reshape(1, 8)}
    assert answers.meaning(["a"], {}, outputs, Labels()) == {}
    assert "pooled   [1, 8]   0 1 2 3 4 5 …" in answers.text({}, outputs)


def test_server_and_address_go_together() -> None:
    assert "give that too" in bertctl("predict", "m", "--server", "triton", "--json", "-").err
    assert "--label needs the BertDeployment" in ask("--json", "-", "--label", "stable").err
    assert bertctl("predict", "m", "--text", "a", "--json", "-").code == 2
    assert bertctl("predict", "m").code == 2


def bert_model(*versions: dict[str, Any], **more: Any) -> BertModel:
    source = {"source": {"pvc": {"claimName": "models"}}}
    plain = {
        "name": "m",
        "build": {"task": "feature-extraction"},
        "versions": [version | source for version in versions],
    }
    return BertModel.model_validate(plain | more)


def test_a_version_is_chosen_by_number_by_label_or_by_default() -> None:
    model = bert_model({"version": 1, "labels": ["stable"]}, {"version": 2, "labels": ["canary"]}, defaultVersion=1)
    chosen = lambda **given: target._version(model, _options(**given))  # noqa: E731
    assert (chosen(), chosen(version=2), chosen(label="canary")) == (1, 2, 2)
    with pytest.raises(FailureError, match="no version 3: give --version with one of 1, 2"):
        chosen(version=3)
    with pytest.raises(FailureError, match="no label 'best': its labels are canary, stable"):
        chosen(label="best")
    with pytest.raises(FailureError, match="its versions have no labels"):
        target._version(bert_model({"version": 1}), _options(label="best"))


def _options(**given: Any) -> Any:
    return argparse.Namespace(**({"version": None, "label": None} | given))


class TorchServe(BaseHTTPRequestHandler):
    """Answers like our handler: a label for a text, vectors of as many tokens as words for a raw one."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        encoder = "encoder" in self.path
        status, answer = 200, dict[str, Any]()
        if body.get("raw"):
            answer = {"last_hidden_state": [[[1.0, 0.0]] * len(body["text"].split())]}
        elif encoder:
            status, answer = 400, {"code": 400, "message": 'this model has no labels: add "raw": true'}
        elif body["text"] == "":
            status, answer = 400, {"code": 400, "message": "text is empty"}
        else:
            answer = {"label": "POSITIVE", "score": 0.9, "scores": {"POSITIVE": 0.9, "NEGATIVE": 0.1}}
        sent = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def torchserve() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), TorchServe) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


def test_torchserve_takes_texts_as_they_are(torchserve: str) -> None:
    words = ("--server", "torchserve", "--address", torchserve)
    ran = bertctl("predict", "sentiment", *words, "--text", "a good film")
    assert ran.out.splitlines()[1].split() == ["a", "good", "film", "POSITIVE", "0.9000"]
    encoded = bertctl("predict", "encoder", *words, "--text", "a", "--text", "b c d", "-o", "json")
    assert json.loads(encoded.out)["cosines"] == [[1, 1], [1, 1]]
    refused = bertctl("predict", "sentiment", *words, "--text", "")
    assert (refused.code, refused.err) == (1, "error: torchserve refused the request: text is empty\n")
    gone = bertctl("predict", "sentiment", "--server", "torchserve", "--address", "127.0.0.1:9", "--text", "a")
    assert "torchserve at 127.0.0.1:9 doesn't answer" in gone.err
