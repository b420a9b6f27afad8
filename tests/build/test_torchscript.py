"""TorchScript, traced for real from tiny random models. Runs in the build image."""

import functools
import importlib.util
import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import bert_build  # noqa: E402
from bert_build import fidelity, source_model, to_torchscript  # noqa: E402
from bert_build.failures import BuildError  # noqa: E402
from bert_build.judge import TooFarError  # noqa: E402
from bert_build.state import State  # noqa: E402
from bert_operator.api.spec import Precision, Task  # noqa: E402
from support import tiny_models  # noqa: E402
from support.build_bench import Bench  # noqa: E402

pytestmark = pytest.mark.build

CLASSIFIER = Task.SEQUENCE_CLASSIFICATION
WISH = {"format": "torchscript", "sequenceBuckets": [8, 16, 24]}
Converted = Callable[[str, Path], tuple[Bench, State]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Copies of one converted classifier of each family."""

    @functools.cache
    def once(family: str) -> tuple[Bench, State]:
        made = Bench(tmp_path_factory.mktemp(family) / "bench")
        tiny_models.save(made.source, family, CLASSIFIER)
        return made, made.run(until="convert", task=CLASSIFIER.value, **WISH)

    def copied(family: str, target: Path) -> tuple[Bench, State]:
        made, state = once(family)
        shutil.copytree(made.root, target / "copy")
        return Bench(target / "copy"), state

    return copied


def tokens(rows: int, length: int) -> dict[str, Any]:
    ids = np.arange(5, 5 + rows * length, dtype=np.int64).reshape(rows, length)
    mask = np.ones_like(ids)
    mask[1:, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def test_the_artifact_answers_by_name_in_every_shape(bench: Bench) -> None:
    tiny_models.save(bench.source, "bert", Task.FEATURE_EXTRACTION)
    tiny_models.pooled(bench.source)
    report, folder = bench.build(task=Task.FEATURE_EXTRACTION.value, **WISH)

    session = to_torchscript.open_session(folder)
    request = tokens(5, 21)
    answer = session.answer(request)

    wanted = source_model.load(bench.source, Task.FEATURE_EXTRACTION).answer(request)
    assert list(answer) == list(wanted) == ["last_hidden_state", "sentence_embedding"]
    for name, values in wanted.items():
        np.testing.assert_allclose(answer[name], values, atol=1e-4)
    assert [(tensor.name, tensor.dtype, tensor.dims) for tensor in (*report.inputs, *report.outputs)] == [
        *((name, "INT64", [-1]) for name in ("input_ids", "attention_mask", "token_type_ids")),
        ("last_hidden_state", "FP32", [-1, 32]),
        ("sentence_embedding", "FP32", [32]),
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["golden.npz", "manifest.json", "model.pt"]


def test_the_server_finds_inputs_by_the_arguments_of_forward(converted: Converted, tmp_path: Path) -> None:
    bench, _ = converted("roberta", tmp_path)

    module = torch.jit.load(str(bench.root / "work/artifact/model.pt"))

    assert [one.name for one in module.forward.schema.arguments[1:]] == ["input_ids", "attention_mask"]
    assert [str(one.type) for one in module.forward.schema.returns] == ["Tuple[Tensor]"]
    assert not list(module.parameters()), "it isn't frozen"


@pytest.mark.parametrize("fault", ["length", "batch", "mask"])
def test_a_trace_that_kept_its_own_shape_is_refused(converted: Converted, tmp_path: Path, fault: str) -> None:
    """What a tracer gets wrong: it answers well at the traced shape, and only there."""
    bench, state = converted("bert", tmp_path)
    spoil(bench, fault)

    with pytest.raises(TooFarError):
        fidelity.run(bench.job(task=CLASSIFIER.value, **WISH), state)


class Spoilt(torch.nn.Module):  # type: ignore[misc]  # torch has no stubs where this is checked
    """The source with what a wrong trace does to its input."""

    def __init__(self, source: Any, fault: str) -> None:
        super().__init__()
        self.inputs, self.outputs = source.inputs, source.outputs
        self.source, self.fault = source, fault

    def forward(self, *tensors: Any) -> Any:
        ids, mask, types = tensors
        if self.fault == "mask":
            mask = torch.ones_like(mask)
        if self.fault == "length":
            mask = mask * (torch.arange(mask.shape[1]) < torch.tensor(8))
        (found,) = self.source(ids, mask, types)
        if self.fault == "batch":
            found = torch.cat([found[:2], found[:1].expand(max(0, found.shape[0] - 2), -1)])
        return (found,)


def spoil(bench: Bench, fault: str) -> None:
    """Put a wrong trace in the right one's place."""
    model = Spoilt(source_model.load(bench.source, CLASSIFIER), fault)
    path = bench.root / "work/artifact/model.pt"
    facts = json.dumps(to_torchscript.read_facts(path))
    module = to_torchscript.script(model, "cpu", Precision.FP32)
    torch.jit.save(module, str(path), _extra_files={to_torchscript.FACTS: facts})


@pytest.mark.parametrize(("precision", "name"), [(Precision.FP16, "float16"), (Precision.BF16, "bfloat16")])
def test_fewer_bits_are_in_the_matrix_products_and_answers_stay_fp32(
    tmp_path: Path, precision: Precision, name: str
) -> None:
    """Traced on a CPU here; the same autocast serves on GPUs."""
    tiny_models.save(tmp_path, "bert", Task.FILL_MASK)
    model = source_model.load(tmp_path, Task.FILL_MASK)

    module = to_torchscript.script(model, "cpu", precision)

    assert to_torchscript.product_types(module) == {getattr(torch, name)}
    given = [torch.from_numpy(tokens(2, 9)[tensor]) for tensor in model.inputs]
    (found,), (exact,) = module(*given), model(*given)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.2
    norms = module.graph.findAllNodes("aten::layer_norm", recurse=True)
    assert {list(node.inputs())[2].node().t("value").dtype for node in norms} == {torch.float32}


def test_a_precision_that_was_not_honoured_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_models.save(tmp_path, "bert", CLASSIFIER)
    model = source_model.load(tmp_path, CLASSIFIER)
    monkeypatch.setattr(to_torchscript.torch, "autocast", lambda *_, **__: torch.no_grad())

    with pytest.raises(BuildError, match=r"have weights in torch\.float32, fp16 was asked") as caught:
        to_torchscript.script(model, "cpu", Precision.FP16)

    assert caught.value.reason == "PrecisionNotAsAsked"


def test_a_job_for_gpus_without_one_says_so(bench: Bench) -> None:
    tiny_models.save(bench.source, "bert", CLASSIFIER)
    job = bench.job(task=CLASSIFIER.value, precision="fp16", format="torchscript")
    request = job.request.model_copy(update={"trace_device": "cuda"})

    with pytest.raises(BuildError, match="PyTorch finds none in this container") as caught:
        to_torchscript.convert(type(job)(request, job.work, job.source, job.store))

    assert (caught.value.reason, "images.buildGpu" in caught.value.next_step) == ("NoAccelerator", True)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Triton's Python-based backend without Triton around it; tests/triton runs it inside the real server."""

    class Refused(Exception):  # noqa: N818 - Triton's name is no error either
        pass

    class Tensor(tuple[Any, ...]):
        __slots__ = ()
        from_dlpack = classmethod(lambda kind, *parts: kind(parts))

    triton = types.ModuleType("triton_python_backend_utils")
    triton.__dict__.update(Tensor=Tensor, TritonModelException=Refused, TritonError=str, InferenceResponse=dict)
    triton.__dict__["InferenceResponse"] = lambda tensors=None, error=None: (tensors, error)
    monkeypatch.setitem(sys.modules, triton.__name__, triton)
    # Its process sets both once; here others come after it.
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda _: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    file = Path(bert_build.__file__).parent / "handlers/pytorch_python/model.py"
    known = importlib.util.spec_from_file_location("pytorch_backend", file)
    assert known is not None
    assert known.loader is not None
    module = importlib.util.module_from_spec(known)
    known.loader.exec_module(module)
    return module


def started(backend: Any, bench: Bench, inputs: tuple[str, ...], **parameters: str) -> Any:
    """An instance of what the bench converted."""
    version = bench.root / "repository/1"
    version.mkdir(parents=True)
    shutil.copy(bench.root / "work/artifact/model.pt", version)
    config = {
        "default_model_filename": "model.pt",
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
        "input": [{"name": name} for name in inputs],
        "output": [{"name": "logits"}],
    }
    told = {"model_config": json.dumps(config), "model_repository": str(version.parent), "model_version": "1"}
    made = backend.TritonPythonModel()
    made.initialize(told)
    return made


class Sent:
    """A request of the backend's."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = tensors

    def inputs(self) -> list[Any]:
        return [
            types.SimpleNamespace(name=lambda name=name: name, to_dlpack=lambda tensor=values: torch.to_dlpack(tensor))
            for name, values in ((name, torch.from_numpy(values)) for name, values in self.tensors.items())
        ]


def test_the_backend_batches_what_has_one_shape_and_a_wrong_request_fails_alone(
    converted: Converted, tmp_path: Path, backend: Any
) -> None:
    bench, _ = converted("bert", tmp_path)
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    model = started(backend, bench, inputs, ENABLE_JIT_EXECUTOR="false", ENABLE_JIT_PROFILING="false")
    # The setters answer what was set before.
    assert (torch._C._jit_set_profiling_executor(False), torch._C._jit_set_profiling_mode(False)) == (False, False)
    beyond = tokens(1, 9) | {"input_ids": np.full((1, 9), 10**6)}
    crooked = tokens(1, 9) | {"attention_mask": np.ones((1, 8), np.int64)}
    asked = [tokens(1, 9), tokens(2, 12), beyond, crooked, tokens(3, 9)]

    answers = model.execute([Sent(request) for request in asked])

    assert [error for _, error in answers[:2]] == [None, None]
    assert "index out of range" in answers[2][1]
    assert answers[3][1] == "input 'attention_mask' has shape [1, 8], but 'input_ids' has [1, 9]: send the same"
    source = source_model.load(bench.source, CLASSIFIER)
    for place in (0, 1, 4):
        ((name, values),) = answers[place][0]
        assert name == "logits"
        np.testing.assert_allclose(torch.from_dlpack(values), source.answer(asked[place])["logits"], atol=1e-4)


def test_the_backend_refuses_a_configuration_of_another_model(
    converted: Converted, tmp_path: Path, backend: Any
) -> None:
    bench, _ = converted("roberta", tmp_path)

    with pytest.raises(Exception, match=r"config\.pbtxt differ in inputs: token_type_ids"):
        started(backend, bench, ("input_ids", "attention_mask", "token_type_ids"))
