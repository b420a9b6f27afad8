"""A few cells of the support matrix, and what only real PyTorch can tell of the tasks' answers. `make support-matrix`
measures all of them."""

import importlib.util
import logging
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import onnx  # noqa: E402
import tokenizers  # noqa: E402
import yaml  # noqa: E402
from transformers.utils import logging as theirs  # noqa: E402

from bert_build import fidelity, half_precision, onnx_session, recorded, source_model, to_mar  # noqa: E402
from bert_build.handlers import torchserve as handler  # noqa: E402
from bert_build.judge import TooFarError  # noqa: E402
from bert_operator.api import names  # noqa: E402
from bert_operator.api.spec import Task  # noqa: E402
from matrix.cells import Spoilt  # noqa: E402
from support import tiny_models  # noqa: E402
from support.build_bench import Bench  # noqa: E402

pytestmark = pytest.mark.build


def check_graphs_of_engines(artifact: Path, folder: Path, request: dict[str, Any]) -> None:
    """What TensorRT would be given of a real export: types that fit everywhere, answers that stay near."""
    wanted = onnx_session.open_session(artifact).answer(request)
    folder.mkdir()
    for kind, most in ((half_precision.FP16, 0.02), (half_precision.BF16, 0.16)):
        half_precision.cast(artifact / names.ONNX_FILE, folder / "real.onnx", half_precision.Wish(kind))
        onnx.checker.check_model(onnx.load(folder / "real.onnx"), full_check=True)
        half_precision.cast(
            artifact / names.ONNX_FILE, folder / names.ONNX_FILE, half_precision.Wish(kind), emulated=True
        )
        found = onnx_session.open_session(folder, literal=True).answer(request)
        for name, values in wanted.items():
            real = request["attention_mask"] == 1 if name == "last_hidden_state" else slice(None)
            assert np.abs(found[name] - values)[real].max() < most * max(1.0, np.abs(values).max())


def test_a_mask_is_filled_as_the_whole_model_fills_it(bench: Bench) -> None:
    import transformers  # noqa: PLC0415 - skipped above where it is missing

    tiny_models.save(bench.source, "deberta-v2", Task.FILL_MASK)
    report, folder = bench.build(task="fill-mask", format="onnx")
    assert [(tensor.name, tensor.dims) for tensor in report.outputs] == [("mask_logits", [tiny_models.VOCABULARY])]
    mask = tokenizers.Tokenizer.from_file(str(bench.source / "tokenizer.json")).token_to_id("[MASK]")
    # The second row's first mask token is at 1; behind it is another one, and before its end padding.
    ids = np.array([[2, 9, 30, 31, mask, 3], [2, mask, 30, mask, 3, 0]], dtype=np.int64)
    shown = np.array([[1] * 6, [1] * 5 + [0]], dtype=np.int64)
    request = {"input_ids": ids, "attention_mask": shown, "token_type_ids": np.zeros_like(ids)}
    answer = onnx_session.open_session(folder).answer(request)["mask_logits"]
    whole = transformers.AutoModelForMaskedLM.from_pretrained(bench.source, attn_implementation="eager").eval()
    with torch.inference_mode():
        logits = whole(**{name: torch.from_numpy(values) for name, values in request.items()}).logits.numpy()
    assert np.abs(answer - logits[[0, 1], [4, 1]]).max() < 1e-3
    assert np.abs(answer[1] - logits[1, 3]).max() > 0.1
    check_graphs_of_engines(folder, bench.root / "half", request)


def test_a_sentence_becomes_the_vector_that_its_files_say(bench: Bench) -> None:
    tiny_models.save(bench.source, "mpnet", Task.FEATURE_EXTRACTION)
    tiny_models.pooled(bench.source, mean_tokens=True, max_tokens=True)
    report, folder = bench.build(task="feature-extraction", format="onnx")
    assert [tensor.dims for tensor in report.outputs] == [[-1, 32], [64]]
    ids = np.array([[0, 9, 30, 31, 2], [0, 9, 2, 1, 1]], dtype=np.int64)
    shown = (ids != 1).astype(np.int64)
    answer = onnx_session.open_session(folder).answer({"input_ids": ids, "attention_mask": shown})
    for row, hidden in enumerate(answer["last_hidden_state"].astype(np.float64)):
        real = hidden[shown[row] == 1]
        wanted = np.concatenate([real.max(axis=0), real.mean(axis=0)])
        assert np.abs(answer["sentence_embedding"][row] - wanted / np.linalg.norm(wanted)).max() < 1e-5
    check_graphs_of_engines(folder, bench.root / "half", {"input_ids": ids, "attention_mask": shown})


def test_what_a_task_leaves_aside_is_no_report_in_the_log(bench: Bench) -> None:
    tiny_models.save(bench.source, "bert", Task.FILL_MASK)
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    theirs.set_verbosity_warning()
    theirs.add_handler(listener)
    try:
        source_model.load(bench.source, Task.FEATURE_EXTRACTION)
    finally:
        theirs.remove_handler(listener)
    assert said == []


def test_the_comparison_refuses_what_is_spoilt(bench: Bench) -> None:
    tiny_models.save(bench.source, "albert", Task.QUESTION_ANSWERING)
    wish = {"task": "question-answering", "format": "onnx"}
    bench.run(until="compare", **wish)
    told = bench.job(**wish)
    session = onnx_session.open_session(told.artifact)
    assert [tensor.dims for tensor in session.outputs] == [[-1], [-1]]
    for tensor, value in (("attention_mask", 1), ("token_type_ids", 0)):
        with pytest.raises(TooFarError):
            fidelity.compare(
                told.request.build, recorded.load(told.work / recorded.FILE), Spoilt(session, tensor, value)
            )


def test_int8_reaches_the_layer_that_albert_repeats(bench: Bench) -> None:
    tiny_models.save(bench.source, "albert", Task.FEATURE_EXTRACTION, hidden_size=64, intermediate_size=256)
    # How near a random model gets is not what is asked here.
    wide = {"minCosine": "0", "maxAbsDifference": "1000"}
    lowering = bench.run(
        until="compare", task="feature-extraction", format="onnx", precision="int8", fidelity=wide
    ).lowering
    assert lowering is not None
    assert (lowering.achieved, lowering.method) == ("int8", "static")
    assert lowering.size_ratio < 0.7


def test_a_question_is_answered_in_words_of_its_context(bench: Bench, tmp_path: Path) -> None:
    tiny_models.save(bench.source, "modernbert", Task.QUESTION_ANSWERING)
    report, folder = bench.build(task="question-answering", format="mar")
    assert {tensor.name: tensor.dims for tensor in report.outputs} == {"start_logits": [-1], "end_logits": [-1]}
    with zipfile.ZipFile(folder / "model.mar") as archive:
        archive.extractall(tmp_path / "mar")
    served = opened(tmp_path / "mar")
    asked = {"question": "The committee will meet on", "context": "Thursday , 12 March in room"}
    found, refused = (ask(served, body) for body in (asked, {"question": "The committee"}))
    assert asked["context"][found["start"] : found["end"]] == found["answer"] != ""
    assert 0 < found["score"] <= 1
    assert 'write {"question"' in refused
    raw = served.answers([served.question(asked | {"raw": True})])[0]
    assert len(raw["start_logits"][0]) == len(raw["end_logits"][0]) == 14


def opened(folder: Path) -> Any:
    """What the archive holds, asked as TorchServe's worker asks it."""
    sys.modules["bert_answers"] = to_mar._code(folder / "bert_answers.py")
    code = to_mar._code(folder / "served_bert.py")
    facts = yaml.safe_load((folder / "model-config.yaml").read_text())["handler"]
    return code.ServedBert(folder, code.Facts.of(facts), 4)


def ask(served: Any, body: dict[str, Any]) -> Any:
    """The answer, or what a refusal says."""
    try:
        return served.answers([served.question(body)])[0]
    except Exception as error:  # noqa: BLE001 - its class is the archive's own
        return str(error)


@pytest.fixture(scope="module")
def words() -> ModuleType:
    """How answers are worded, without a model."""
    spec = importlib.util.spec_from_file_location("worded", Path(handler.__path__[0], "bert_answers.py"))
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules["worded"] = found
    spec.loader.exec_module(found)
    return found


def encoded(*texts: str) -> Any:
    """A text whose words of more than three letters have two tokens."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({"[UNK]": 0, "Ada": 1, "in": 2, "Bonn": 3, "##er": 4, "who": 5})
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made, made.encode(*texts)


def test_a_word_has_the_label_of_its_first_token(words: ModuleType) -> None:
    made, encoding = encoded("Ada in Bonner")
    logits = torch.tensor([[0.0, 5], [5, 0], [0, 5], [9, 0]])
    how = words.How(["O", "NAME"], "softmax", None, made)
    found = words.ANSWERS["token-classification"]({"logits": logits}, words.Words("Ada in Bonner", None, encoding), how)
    told = [(one["word"], one["label"], one["start"], one["end"]) for one in found["tokens"]]
    assert told == [("Ada", "NAME", 0, 3), ("in", "O", 4, 6), ("Bonner", "NAME", 7, 13)]


def test_an_answer_stands_in_the_context_and_ends_behind_its_start(words: ModuleType) -> None:
    made, encoding = encoded("who", "Ada in Bonner")
    # The best start is in the question; the best end would be before the best start.
    start, end = torch.tensor([9.0, 0, 1, 5, 0]), torch.tensor([0.0, 4, 0, 0, 3])
    how = words.How([], "none", None, made)
    asked = words.Words("who", "Ada in Bonner", encoding)
    found = words.ANSWERS["question-answering"]({"start_logits": start, "end_logits": end}, asked, how)
    assert (found["answer"], found["start"], found["end"]) == ("Bonner", 7, 13)


def test_a_masked_token_is_offered_by_its_name(words: ModuleType) -> None:
    made, encoding = encoded("Ada in Bonner")
    how = words.How([], "none", 2, made)
    logits = {"mask_logits": torch.tensor([0.0, 3, 1, 7, 2, 1])}
    found = words.ANSWERS["fill-mask"](logits, words.Words("", None, encoding), how)["predictions"]
    assert [one["token"] for one in found][:2] == ["Bonn", "Ada"]
    assert len(found) == 5
