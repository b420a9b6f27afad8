"""The whole build, each step a process of its own as in the pod, with real PyTorch, ONNX and ONNX Runtime.

Runs inside the build image (marker `build`); elsewhere it is skipped because PyTorch isn't there.
"""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("torch")
# What steps would import anew, each of them, and find imported: they are forks of this process.
pytest.importorskip("transformers.models.bert.modeling_bert")
pytest.importorskip("bert_build.source_model")

from bert_build import golden_answers, recorded  # noqa: E402
from bert_operator.api.report import MAX_REPORT_BYTES, BuildFailure, BuildReport, ExitCode, Manifest  # noqa: E402
from bert_operator.api.steps import EXPORT_STEPS as BUILD_STEPS  # noqa: E402
from support.prepared import Prepared  # noqa: E402

pytestmark = pytest.mark.build

LENGTH = 32


@dataclasses.dataclass(frozen=True)
class Result:
    step: str
    code: int
    said: str
    report: str


class Bench:
    """One build with its claims; steps are started as the pod starts them."""

    def __init__(self, root: Path, prepared: Prepared, alone: tuple[str, ...] = ()) -> None:
        self.root = root
        self.prepared = prepared
        self.alone = alone
        """Steps that start their own Python, as in the pod, and import for themselves what they need."""
        self.source, self.store = root / "source", root / "store"
        for folder in (self.source, self.store, root / "sealed"):
            folder.mkdir(parents=True)

    def command(self, step: str, work: Path) -> list[str]:
        folders = [
            f"--work={work}",
            f"--source={self.source}",
            f"--store={self.store}",
            f"--sealed={self.root / 'sealed'}",
        ]
        return [sys.executable, "-m", "bert_build", step, *folders]

    def environment(self, wish: dict[str, Any]) -> dict[str, str]:
        return {
            **os.environ,
            "BERTOPS_BUILD_REQUEST": json.dumps(wish),
            "BERTOPS_TERMINATION_LOG": str(self.root / "termination"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

    def run(self, wish: dict[str, Any], steps: tuple[str, ...] = BUILD_STEPS, work: Path | None = None) -> Result:
        """Run steps until one fails, in a fresh scratch folder."""
        work = work or Path(self.root / f"work-{time.monotonic_ns()}")
        work.mkdir(exist_ok=True)
        result = Result("", 0, "", "")
        for step in steps:
            (self.root / "termination").write_text("")
            code, out, err = self._start(step, work, self.environment(wish))
            result = Result(step, code, out + err, (self.root / "termination").read_text())
            if code:
                return result
        return result

    def _start(self, step: str, work: Path, environment: dict[str, str]) -> tuple[int, str, str]:
        command = self.command(step, work)
        if step not in self.alone:
            return self.prepared.run(command[3:], environment)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
        return done.returncode, done.stdout, done.stderr

    def build(self, wish: dict[str, Any]) -> BuildReport:
        result = self.run(wish)
        assert result.code == 0, f"{result.step}: {result.said}"
        assert len(result.report.encode()) <= MAX_REPORT_BYTES
        return BuildReport.model_validate_json(result.report)

    def fail(self, wish: dict[str, Any]) -> tuple[Result, BuildFailure]:
        result = self.run(wish)
        assert result.code != 0, "the build went through"
        failure = BuildFailure.model_validate_json(result.report)
        assert failure.message
        assert len(result.report.encode()) <= MAX_REPORT_BYTES
        return result, failure

    def artifact(self, report: BuildReport) -> Path:
        return self.store / "artifacts" / f"{report.format}-{report.artifact_key}"

    def published(self) -> list[str]:
        folder = self.store / "artifacts"
        return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def request(task: str = "feature-extraction", path: str = "bert", **build: Any) -> dict[str, Any]:
    wish = {"task": task, "format": "onnx", "maxSequenceLength": LENGTH, **build}
    return {"requestKey": "k1", "model": "m", "version": 1, "build": wish, "pvc": {"claimName": "c", "path": path}}


def make_model(folder: Path, *, head: bool = False, positions: int = 64, **change: Any) -> Path:
    """A tiny BERT whose weights are large enough for faults to show."""
    import torch  # noqa: PLC0415 - skipped above where it is missing
    import transformers  # noqa: PLC0415

    torch.manual_seed(7)
    config = transformers.BertConfig(
        vocab_size=3000, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=positions, initializer_range=0.5, num_labels=3, **change,
    )  # fmt: skip
    kind = transformers.BertForSequenceClassification if head else transformers.BertModel
    model = kind(config)
    with torch.no_grad():
        # Fresh biases are all zero, and equal tensors are merged by the exporter: real ones differ.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


Built = Callable[[str], tuple[Bench, BuildReport]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Built:
    """One build of each task, for all tests that only look at it.

    Every step starts its own Python that can do without PyTorch; on the real node (tests/e2e) `answer` does as well.
    """

    @functools.cache
    def build(task: str) -> tuple[Bench, BuildReport]:
        classifier = task == "sequence-classification"
        alone = tuple(step for step in BUILD_STEPS if classifier and step != "answer")
        made = Bench(tmp_path_factory.mktemp(task), prepared, alone)
        make_model(made.source / "bert", head=classifier)
        return made, made.build(request(task))

    return build


@pytest.fixture(scope="module")
def half_built(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> tuple[Bench, Path]:
    """A bench and a scratch folder, all steps before `compare` done."""
    made = Bench(tmp_path_factory.mktemp("half"), prepared)
    make_model(made.source / "bert")
    work = made.root / "work"
    assert made.run(request(), BUILD_STEPS[: BUILD_STEPS.index("compare")], work).code == 0
    return made, work


@pytest.fixture
def bench(tmp_path: Path, prepared: Prepared) -> Bench:
    return Bench(tmp_path, prepared)


def ask_reference(bench: Bench, task: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    command = ["reference", "--model", str(bench.source / "bert"), "--task", task]
    code, out, err = bench.prepared.run(command, bench.environment({}), json.dumps(requests))
    assert code == 0, err
    answers: list[dict[str, Any]] = json.loads(out)
    return answers


@pytest.mark.parametrize(
    ("task", "output"), [("feature-extraction", "last_hidden_state"), ("sequence-classification", "logits")]
)
def test_published_artifact_answers_like_the_source_model(built: Built, task: str, output: str) -> None:
    bench, report = built(task)
    session = onnxruntime.InferenceSession(bench.artifact(report) / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.array([[5, 99, 2048, 17, 1500, 0, 0], [9, 8, 7, 6, 5, 4, 3]], dtype=np.int64)
    mask = np.array([[1, 1, 1, 1, 1, 0, 0], [1] * 7], dtype=np.int64)
    types = np.array([[0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]], dtype=np.int64)
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    [answer] = session.run([output], feed)
    [reference] = ask_reference(bench, task, [{name: values.tolist() for name, values in feed.items()}])
    expected = np.array(reference[output])
    assert answer.shape == expected.shape
    real = answer[mask == 1] if task == "feature-extraction" else answer
    assert np.abs(real - (expected[mask == 1] if task == "feature-extraction" else expected)).max() < 1e-3
    # Not by chance: another input gives another answer.
    [other] = session.run([output], {**feed, "token_type_ids": 1 - types})
    assert np.abs(other - answer).max() > 0.01


def test_report_tells_what_was_built(built: Built) -> None:
    bench, report = built("sequence-classification")
    assert [(spec.name, spec.dtype, spec.dims) for spec in report.inputs] == [
        ("input_ids", "INT64", [-1]), ("attention_mask", "INT64", [-1]), ("token_type_ids", "INT64", [-1]),
    ]  # fmt: skip
    assert [(spec.name, spec.dtype, spec.dims) for spec in report.outputs] == [("logits", "FP32", [3])]
    assert report.architecture == "BertForSequenceClassification"
    assert report.fidelity.samples > 5
    assert 0 < report.fidelity.max_abs_difference < report.fidelity.limit_max_abs_difference
    assert report.peak_memory_bytes > 100 << 20
    assert set(report.durations_seconds) == {"fetch", "inspect", "answer", "convert", "compare"}
    assert report.size_bytes == sum(
        file.stat().st_size for file in bench.artifact(report).iterdir() if file.suffix != ".json"
    )
    manifest = Manifest.model_validate_json((bench.artifact(report) / "manifest.json").read_bytes())
    assert set(manifest.files) == {"model.onnx", "golden.npz", "texts.npz"}
    texts, calibration, _ = recorded.load_ids(bench.artifact(report) / "texts.npz")
    assert len(texts) == report.fidelity.samples - len(golden_answers.read(bench.artifact(report) / "golden.npz"))
    assert len(calibration) > 5
    assert bench.published() == [bench.artifact(report).name]


def test_golden_requests_are_small_and_repeat_the_source_model(built: Built) -> None:
    bench, report = built("feature-extraction")
    golden = np.load(bench.artifact(report) / "golden.npz", allow_pickle=False)
    numbers = sorted({int(name.partition("/")[0]) for name in golden.files})
    assert numbers == list(range(len(numbers)))
    assert 1 <= len(numbers) <= 4
    names = ("input_ids", "attention_mask", "token_type_ids")
    feeds = [{name: golden[f"{number}/in/{name}"] for name in names} for number in numbers]
    assert {feed["input_ids"].shape[0] for feed in feeds} == {1}
    assert any((feed["attention_mask"] == 0).any() for feed in feeds)
    assert any((feed["token_type_ids"] == 1).any() for feed in feeds)
    asked = [{name: values.tolist() for name, values in feed.items()} for feed in feeds]
    for number, answer in zip(numbers, ask_reference(bench, "feature-extraction", asked), strict=True):
        assert np.allclose(golden[f"{number}/out/last_hidden_state"], answer["last_hidden_state"], atol=1e-4)


def test_second_build_reuses_the_artifact_without_loading_pytorch(built: Built, tmp_path: Path) -> None:
    bench, first = built("feature-extraction")
    assert not first.reused
    spy = tmp_path / "spy"
    for name in ("torch", "transformers", "onnx", "onnxruntime"):
        (spy / name).mkdir(parents=True)
        (spy / name / "__init__.py").write_text(f"raise AssertionError('a reused build imported {name}')")
    environment = {**bench.environment(request()), "PYTHONPATH": os.pathsep.join([str(spy), *sys.path])}
    # The imports above must fail if they happen: prove that the spy works.
    assert subprocess.run(
        [sys.executable, "-c", "import torch"], env=environment, check=False, capture_output=True
    ).returncode
    work = tmp_path / "again"
    work.mkdir()
    for step in BUILD_STEPS:
        done = subprocess.run(bench.command(step, work), env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    second = BuildReport.model_validate_json((bench.root / "termination").read_text())
    assert second.reused
    assert second.model_copy(update={"reused": False}) == first


def break_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def rewrite_config(folder: Path, **change: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.parametrize(
    ("spoil", "wish", "step", "reason", "says"),
    [
        (lambda _: None, request(path="wrong"), "fetch", "SourceNotFound", "it holds bert/"),
        (break_weights, request(), "inspect", "SourceCorrupt", "model.safetensors"),
        (lambda f: rewrite_config(f, model_type="gpt2"), request(), "inspect", "UnsupportedModel", "'gpt2'"),
        (
            lambda f: rewrite_config(f, auto_map={"AutoModel": "x.Y"}),
            request(),
            "inspect",
            "RemoteCodeRefused",
            "auto_map",
        ),
        (
            lambda f: rewrite_config(f, architectures=None),
            request("sequence-classification"),
            "inspect",
            "HeadMissing",
            "no trained classifier",
        ),
        (lambda _: None, request(maxSequenceLength=65), "inspect", "SequenceTooLong", "only 64 positions"),
        (
            lambda _: None,
            request(fidelity={"maxAbsDifference": "0.000000001"}),
            "compare",
            "FidelityExceeded",
            "differs by up to",
        ),
    ],
)
def test_what_cannot_be_built_ends_with_its_reason_and_leaves_nothing(
    bench: Bench, spoil: Any, wish: dict[str, Any], step: str, reason: str, says: str
) -> None:
    spoil(make_model(bench.source / "bert"))
    result, failure = bench.fail(wish)
    assert (result.step, failure.reason, result.code) == (step, reason, ExitCode.USER_ERROR)
    assert says in failure.message
    assert failure.next_step
    assert "Traceback" not in result.said
    assert bench.published() == []


def test_unknown_revision_of_an_unreachable_or_foreign_hub_is_no_traceback(bench: Bench) -> None:
    bench.alone = ("fetch",)  # the library reads the hub's address when it is imported
    wish = {**request(), "huggingFace": {"repo": "team/bert", "revision": "v9"}}
    del wish["pvc"]
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    try:
        result, failure = bench.fail(wish)
    finally:
        del os.environ["HF_ENDPOINT"]
    assert (result.step, failure.reason, result.code) == ("fetch", "SourceUnreachable", ExitCode.PASSING)
    assert "Traceback" not in result.said


def test_full_claim_is_named_and_left_clean(bench: Bench) -> None:
    make_model(bench.source / "bert")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(bench.store)], check=False).returncode:
        pytest.skip("may not mount a small tmpfs here; test_store injects the error instead")
    try:
        result, failure = bench.fail(request())
        assert (failure.reason, result.code) == ("StoreFull", ExitCode.NO_SPACE)
        assert "are free" in failure.message
        assert [entry for entry in bench.store.rglob("*") if entry.is_file()] == []
    finally:
        subprocess.run(["umount", str(bench.store)], check=True)


def test_pickle_is_read_as_weights_only(bench: Bench) -> None:
    import torch  # noqa: PLC0415
    from safetensors import torch as safetensors_torch  # noqa: PLC0415

    folder = make_model(bench.source / "bert")
    path = folder / "model.safetensors"
    torch.save(safetensors_torch.load_file(path), folder / "pytorch_model.bin")
    path.unlink()
    assert bench.fail(request())[1].reason == "PickleRefused"
    assert bench.build(request(allowPickle=True)).parameters > 0


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/bert-pickle-ran",)


def test_code_in_a_pickle_is_refused_and_not_run(bench: Bench) -> None:
    import pickle  # noqa: PLC0415

    folder = make_model(bench.source / "bert")
    (folder / "model.safetensors").unlink()
    marker = Path("/tmp/bert-pickle-ran")  # noqa: S108 - the pickle can't know the test's folder
    marker.unlink(missing_ok=True)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": RunsCode()}))
    result, failure = bench.fail(request(allowPickle=True))
    assert (result.step, failure.reason) == ("inspect", "SourceCorrupt")
    assert not marker.exists()


def test_half_precision_checkpoint_becomes_fp32(bench: Bench) -> None:
    import torch  # noqa: PLC0415
    from safetensors import torch as safetensors_torch  # noqa: PLC0415

    path = make_model(bench.source / "bert") / "model.safetensors"
    halves = {name: tensor.to(torch.float16) for name, tensor in safetensors_torch.load_file(path).items()}
    safetensors_torch.save_file(halves, path, metadata={"format": "pt"})
    report = bench.build(request())
    assert report.outputs[0].dtype == "FP32"
    assert report.size_bytes > report.parameters * 4


@pytest.mark.parametrize("step", ["convert", "compare"])
def test_sigterm_ends_a_step_as_a_passing_fault(half_built: tuple[Bench, Path], tmp_path: Path, step: str) -> None:
    bench, done = half_built
    work = shutil.copytree(done, tmp_path / "work")
    with subprocess.Popen(
        bench.command(step, work),
        env=bench.environment(request()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == ExitCode.PASSING
    assert BuildFailure.model_validate_json((bench.root / "termination").read_text()).reason == "BuildStopped"
