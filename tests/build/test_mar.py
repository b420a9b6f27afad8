"""A model archive, built for real: PyTorch, torch-model-archiver, our handler's code. Runs in the build image."""

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("model_archiver")
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from bert_build import fidelity, source_model  # noqa: E402
from bert_build.failures import BuildError  # noqa: E402
from bert_build.handlers import torchserve as handler  # noqa: E402
from bert_operator.api.report import BuildReport  # noqa: E402
from bert_operator.api.spec import Task  # noqa: E402
from build.test_steps import make_model  # noqa: E402
from support.build_bench import Bench  # noqa: E402

pytestmark = pytest.mark.build

WORDS = ("the", "film", "was", "good", "bad", "und", "##er", "u", "##ber", "hund", "quick", "fox", ".", "[UNK]")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
LABELS = {0: "negative", 1: "neutral", 2: "positive"}


LENGTH = 32
CLASSIFIER = "sequence-classification"


def with_tokenizer(folder: Path, *, lower: bool = True, side: str = "right") -> Path:
    """Add a small vocabulary, as `save_pretrained` of a tokenizer writes it."""
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, *"abcdefghijklmnopqrstuvwxyz", *WORDS[::-1]]))
    tokenizer = transformers.BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=lower, truncation_side=side)
    tokenizer.save_pretrained(folder)
    return folder


def built(bench: Bench, target: Path, task: str = CLASSIFIER) -> tuple[Any, Path]:
    """The report of a whole build, and what its archive holds."""
    report, folder = bench.build(task=task, format="mar", maxSequenceLength=LENGTH)
    return report, unpacked(folder, target)


def converted(bench: Bench, target: Path) -> Path:
    """What the archive holds before anybody compares it: for tests that compare its answers themselves."""
    bench.run(until="convert", task=CLASSIFIER, format="mar", maxSequenceLength=LENGTH)
    return unpacked(bench.root / "work" / "artifact", target)


def unpacked(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(folder / "model.mar") as archive:
        archive.extractall(target)
    return target


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, BuildReport, Path]:
    """One whole build for all tests that only look at it: its bench, its report and what its archive holds."""
    root = tmp_path_factory.mktemp("classifier")
    bench = Bench(root / "bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTOPS_TERMINATION_LOG", str(bench.termination))
        with_tokenizer(make_model(bench.source, head=True, id2label=LABELS))
        return bench, *built(bench, root / "mar")


def expected(bench: Bench, task: str, feed: dict[str, Any]) -> Any:
    """What the source model answers."""
    arrays = {name: np.array(values, dtype=np.int64) for name, values in feed.items()}
    ((_, values),) = source_model.load(bench.source, Task(task)).answer(arrays).items()
    return values


def opened(folder: Path) -> Any:
    """What the archive holds, asked as TorchServe's worker asks it."""
    import yaml  # noqa: PLC0415

    sys.modules["bert_answers"] = module(folder / "bert_answers.py")
    code = module(folder / "served_bert.py")
    facts = yaml.safe_load((folder / "model-config.yaml").read_text())["handler"]
    return code.ServedBert(folder, code.Facts.of(facts), 4)


def module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"from_{file.parent.name}", file)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def ask(model: Any, *bodies: Any) -> list[Any]:
    return list(model.answers([model.question(body) for body in bodies]))


FEED = {
    "input_ids": [[5, 99, 2048, 17, 1500, 0, 0], [9, 8, 7, 6, 5, 4, 3]],
    "attention_mask": [[1, 1, 1, 1, 1, 0, 0], [1] * 7],
    "token_type_ids": [[0, 0, 1, 1, 1, 0, 0]] * 2,
}


def test_the_archive_answers_like_the_source_model(bench: Bench, tmp_path: Path) -> None:
    with_tokenizer(make_model(bench.source))
    report, folder = built(bench, tmp_path / "mar", "feature-extraction")

    [answer] = ask(opened(folder), FEED)

    wanted, found = expected(bench, "feature-extraction", FEED), np.array(answer["last_hidden_state"])
    assert found.shape == wanted.shape
    assert np.abs(found - wanted)[np.array(FEED["attention_mask"]) == 1].max() < 1e-4
    assert report.fidelity.max_abs_difference < 1e-4


def test_a_classifier_answers_like_the_source_model(classifier: tuple[Bench, BuildReport, Path]) -> None:
    bench, report, folder = classifier

    [answer] = ask(opened(folder), FEED)

    wanted, found = expected(bench, CLASSIFIER, FEED), np.array(answer["logits"])
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-4
    assert report.fidelity.max_abs_difference < 1e-4


def test_the_archive_is_a_whole_one_and_says_what_it_is(classifier: tuple[Bench, BuildReport, Path]) -> None:
    bench, report, folder = classifier

    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())

    assert manifest["model"] | {"handler": "bert_handler.py", "serializedFile": "model.pt"} == manifest["model"]
    assert manifest["archiverVersion"] == "0.12.0"
    assert {path.name for path in folder.iterdir()} >= {
        *("model.pt", "tokenizer.json", "index_to_name.json", "model-config.yaml", "bert_handler.py"),
        *("served_bert.py", "bert_answers.py"),
    }
    assert [(tensor.name, tensor.dtype, tensor.dims) for tensor in (*report.inputs, *report.outputs)] == [
        *((name, "INT64", [-1]) for name in ("input_ids", "attention_mask", "token_type_ids")),
        ("logits", "FP32", [3]),
    ]
    published = bench.root / "store" / "artifacts" / f"mar-{report.artifact_key}"
    assert sorted(path.name for path in published.iterdir()) == ["golden.npz", "manifest.json", "model.mar"]
    with np.load(published / "golden.npz", allow_pickle=False) as golden:
        texts = [key for key in golden.files if key.endswith("/in/text")]
        assert len(texts) == 3
        assert str(golden[texts[0]][0]).startswith("Der schnelle")
        assert golden[texts[0].replace("in/text", "out/logits")].shape == (1, 3)
    for name in ("bert_handler.py", "served_bert.py"):
        assert (folder / name).read_bytes() == (Path(handler.__path__[0]) / name).read_bytes()


def test_texts_are_answered_like_transformers_would(classifier: tuple[Bench, BuildReport, Path]) -> None:
    bench, _, folder = classifier
    check_texts(bench, folder)


@pytest.mark.parametrize(("lower", "side"), [(False, "right"), (True, "left")])
def test_a_tokenizers_own_ways_are_kept(bench: Bench, tmp_path: Path, *, lower: bool, side: str) -> None:
    with_tokenizer(make_model(bench.source, head=True, id2label=LABELS), lower=lower, side=side)
    check_texts(bench, converted(bench, tmp_path / "mar"))


def check_texts(bench: Bench, folder: Path) -> None:
    model = opened(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bench.source)
    texts = ["The film was Good.", "bad " + "über " * 60 + "good", ""]

    found = ask(model, *({"text": text} for text in texts), {"text": texts[0], "text_pair": "bad", "raw": True})

    encoded = [tokenizer(*words, truncation=True, max_length=LENGTH) for words in (*zip(texts), (texts[0], "bad"))]
    names = ("input_ids", "attention_mask", "token_type_ids")
    wanted = [expected(bench, CLASSIFIER, {name: [one[name]] for name in names})[0] for one in encoded]
    for answer, logits in zip(found[:3], wanted, strict=False):
        scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert list(answer["scores"]) == ["negative", "neutral", "positive"]
        assert np.abs(np.array(list(answer["scores"].values())) - scores).max() < 1e-4
        assert (answer["label"], answer["score"]) == (LABELS[int(logits.argmax())], max(answer["scores"].values()))
    assert np.abs(np.array(found[3]["logits"]) - wanted[3]).max() < 1e-4
    # Not by chance: what is said decides.
    assert found[0]["scores"] != found[1]["scores"]


def test_a_wrong_tokenizer_shows_at_the_build(bench: Bench, tmp_path: Path) -> None:
    """Tensors alone would never notice it."""
    with_tokenizer(make_model(bench.source, head=True))
    wish = {"task": CLASSIFIER, "format": "mar", "maxSequenceLength": LENGTH}
    state = bench.run(until="convert", **wish)
    archive, folder = bench.root / "work" / "artifact" / "model.mar", tmp_path / "changed"
    with zipfile.ZipFile(archive) as whole:
        whole.extractall(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with zipfile.ZipFile(archive, "w") as rewritten:
        for path in folder.rglob("*"):
            if path.is_file():
                rewritten.write(path, path.relative_to(folder))

    with pytest.raises(BuildError, match="request: a text") as caught:
        fidelity.run(bench.job(**wish), state)

    assert caught.value.reason == "FidelityExceeded"


def test_a_tokenizer_that_cant_be_loaded_is_no_model_without_texts(bench: Bench, tmp_path: Path) -> None:
    folder = with_tokenizer(make_model(bench.source, head=True))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BuildError, match=r"tokenizer\.json can't be loaded") as caught:
        built(bench, tmp_path / "mar")
    assert caught.value.reason == "TokenizerUnusable"


def test_a_source_without_a_tokenizer_serves_tensors(bench: Bench, tmp_path: Path) -> None:
    make_model(bench.source, head=True)
    folder = converted(bench, tmp_path / "mar")
    model = opened(folder)

    assert not (folder / "tokenizer.json").exists()
    assert ask(model, {"input_ids": [[1, 2, 3]]})[0]["logits"]
    with pytest.raises(Exception, match="without a tokenizer: send input_ids"):
        model.question({"text": "hello"})


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_scores_are_those_of_the_problem_type(bench: Bench, tmp_path: Path, problem: str) -> None:
    with_tokenizer(make_model(bench.source, head=True, id2label=LABELS, problem_type=problem))
    model = opened(converted(bench, tmp_path / "mar"))

    worded, raw = ask(model, {"text": "good"}, {"text": "good", "raw": True})

    logits = np.array(raw["logits"][0])
    wanted = logits if problem == "regression" else 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(list(worded["scores"].values()), wanted, atol=1e-6)
