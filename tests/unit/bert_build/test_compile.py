"""A compile Job from the published ONNX artifact to the published engine, on a stand-in for TensorRT and the GPU.

The steps and the script are the real ones; only the module `tensorrt` and the driver are made up (tests/support).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bert_build import engine, engine_plan, half_precision, job, recorded
from bert_build.handlers.tensorrt import compile_engine
from bert_build.store import Store
from bert_operator.api import names
from bert_operator.api.report import BuildFailure, BuildReport, BuildRequest, OnnxArtifact
from bert_operator.api.spec import Precision
from support import onnx_bert, published, tensorrt_standin
from support.operator_process import eventually

REAL_CUDA = compile_engine.Cuda
SHAPE = onnx_bert.Shape(layers=2, longest=24)


class CompileJob:
    """The containers of one compile Job, over one store."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.log = folder / "termination-log"
        self.jobs = 0
        monkeypatch.setenv("BERTOPS_TERMINATION_LOG", str(self.log))
        monkeypatch.setattr(compile_engine, "Cuda", tensorrt_standin.FakeCuda)
        self.tensorrt(tensorrt_standin.module())
        one_row = [published.tokens(1, 8, SHAPE), published.tokens(1, 16, SHAPE, seed=1)]
        self.onnx = published.publish(folder / "store/artifacts" / f"onnx-{published.KEY}", SHAPE, one_row)
        self.source = OnnxArtifact(
            artifact_key=published.KEY,
            manifest_sha256=self.onnx.known.report.manifest_sha256,
            revision="main",
            profile="gpu",
        )

    def tensorrt(self, module: Any) -> None:
        self.patch.setitem(sys.modules, "tensorrt", module)

    def ask(self, *, read_only: bool = False, **wish: Any) -> None:
        """A new Job with a work folder of its own."""
        self.jobs += 1
        self.work = self.folder / f"work{self.jobs}"
        self.work.mkdir()
        (self.folder / "sealed").mkdir(exist_ok=True)
        build = {"task": "sequence-classification", "format": "tensorrt", "maxSequenceLength": 24, **wish}
        asked = {"requestKey": "k1", "model": "m", "version": 1, "build": build, "storeReadOnly": read_only}
        request = BuildRequest.model_validate(asked | {"onnx": self.source.model_dump(by_alias=True)})
        self.patch.setenv(names.BUILD_REQUEST_ENV, request.model_dump_json(by_alias=True))

    def step(self, name: str) -> int:
        """One container."""
        if name in ("compile", "answer"):
            assert (self.work / names.COMPILE_SCRIPT).read_bytes() == Path(compile_engine.__file__).read_bytes()
            return compile_engine.main([name], self.work)
        return job.run(name, self.work, self.folder / "source", self.folder / "store", self.folder / "sealed")

    def through(self, *steps: str) -> None:
        for name in steps:
            assert self.step(name) == 0, self.log.read_text()

    def report(self) -> BuildReport:
        return BuildReport.model_validate_json(self.log.read_text())

    def failure(self) -> BuildFailure:
        return BuildFailure.model_validate_json(self.log.read_text())


STEPS = ("stage", "compile", "answer", "compare", "publish")


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompileJob:
    return CompileJob(tmp_path, monkeypatch)


def wish(compiling: CompileJob) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((compiling.work / engine_plan.WISH_FILE).read_text())
    return found


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestTheWholeJob:
    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_publishes_an_engine_that_answers_like_the_source(self, compiling: CompileJob, precision: str) -> None:
        compiling.ask(precision=precision, sequenceBuckets=[8, 16], maxBatchSize=4)
        compiling.through(*STEPS)
        report = compiling.report()
        assert (report.format, report.precision, report.reused) == ("tensorrt", precision, False)
        assert (report.compute_capability, report.tensorrt_version) == ("8.6", "11.2.1.2")
        assert [one.max for one in report.profiles] == [[4, 8], [4, 16], [4, 24]]
        assert [(one.name, one.dtype, one.dims) for one in report.outputs] == [("logits", "FP32", [2])]
        assert report.revision == "main"
        assert report.fidelity.samples == 2 + 3
        assert len(compiling.log.read_bytes()) <= 3500
        manifest = Store(compiling.folder / "store").sound("tensorrt", report.artifact_key)
        assert manifest is not None
        assert set(manifest.files) == {names.ENGINE_FILE, names.GOLDEN_FILE}

    def test_the_second_time_it_finds_the_engine_and_compiles_nothing(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through(*STEPS)
        first = compiling.report()
        compiling.ask()
        compiling.tensorrt(tensorrt_standin.module(fails="nothing may be compiled"))
        compiling.through(*STEPS)
        assert compiling.report().reused
        assert compiling.report().artifact_key == first.artifact_key

    def test_on_a_read_only_claim_no_gpu_is_asked_for_what_cant_be_kept(self, compiling: CompileJob) -> None:
        compiling.ask(read_only=True)
        assert compiling.step("stage") == 73
        assert compiling.failure().reason == "StoreReadOnly"
        compiling.ask()
        compiling.through(*STEPS)
        compiling.ask(read_only=True)
        compiling.through(*STEPS)
        assert compiling.report().reused

    def test_another_tensorrt_makes_another_engine(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through(*STEPS)
        first = compiling.report()
        compiling.ask()
        compiling.tensorrt(tensorrt_standin.module("11.3.0.99"))
        compiling.through(*STEPS)
        assert not compiling.report().reused
        assert compiling.report().artifact_key != first.artifact_key

    def test_what_the_builder_measured_is_there_for_the_next_build(
        self, compiling: CompileJob, capsys: pytest.CaptureFixture[str]
    ) -> None:
        compiling.ask()
        compiling.through(*STEPS)
        compiling.ask(maxBatchSize=4)
        capsys.readouterr()
        compiling.through(*STEPS)
        assert "timing cache: 8 bytes known" in capsys.readouterr().out

    def test_a_damaged_timing_cache_is_left_aside(self, compiling: CompileJob) -> None:
        cache = compiling.folder / "store" / engine_plan.CACHES_FOLDER / "Stand-in-GPU-8.6-11.2.1.2.cache"
        cache.parent.mkdir()
        cache.write_bytes(b"damaged")
        compiling.ask()
        compiling.through(*STEPS)
        assert cache.read_bytes() == b"measured"

    def test_a_timing_cache_is_put_nowhere_else(self, compiling: CompileJob) -> None:
        """The name comes from a container that isn't ours, and the claim holds everybody's artifacts."""
        compiling.ask()
        compiling.through("stage", "compile", "answer")
        folder = compiling.work / engine_plan.CACHES_FOLDER
        (folder / "x.cache").write_bytes(b"theirs")
        change(compiling.work / engine_plan.FOUND_FILE, timing_cache=f"../{folder.name}/x.cache")
        assert compiling.step("compare") == 70
        assert compiling.failure().reason == "InternalError"
        assert not list((compiling.folder / "store").rglob("x.cache"))


class TestStage:
    def test_another_onnx_artifact_than_the_recorded_one_is_refused(self, compiling: CompileJob) -> None:
        compiling.source = compiling.source.model_copy(update={"manifest_sha256": "0" * 64})
        compiling.ask()
        assert compiling.step("stage") == 65
        assert compiling.failure().reason == "ArtifactCorrupt"
        assert f"onnx-{published.KEY}" in compiling.failure().message

    def test_a_changed_graph_is_refused(self, compiling: CompileJob) -> None:
        graph = compiling.onnx.folder / names.ONNX_FILE
        graph.write_bytes(graph.read_bytes()[:-1] + b"x")
        compiling.ask()
        assert compiling.step("stage") == 65
        assert "isn't there or isn't whole" in compiling.failure().message

    def test_the_longest_text_is_asked_too_and_each_in_every_company(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage")
        texts = recorded.load(compiling.work / recorded.FILE).texts
        assert [one.sample.real.shape for one in texts] == [(1, 8), (1, 16), (1, 24)]
        shapes = [tuple(one["inputs"]["input_ids"]["shape"]) for one in wish(compiling)["requests"]]
        assert {(1, 8), (1, 16), (1, 24)} <= set(shapes[:3])  # alone
        assert (1, 24) in shapes[3:]  # the short one, padded
        assert shapes[-1] == (3, 24)  # all of them in one batch

    def test_nothing_of_the_store_reaches_the_gpu_but_the_graph(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage")
        graph = compiling.work / engine_plan.GRAPH_FILE
        assert graph.read_bytes() == (compiling.onnx.folder / names.ONNX_FILE).read_bytes()
        assert wish(compiling)["graph"] == engine_plan.GRAPH_FILE


class TestHalfPrecision:
    def test_weights_are_fp16_and_inputs_and_outputs_stay(self, compiling: CompileJob, tmp_path: Path) -> None:
        half_precision.cast(compiling.onnx.folder / names.ONNX_FILE, tmp_path / "half.onnx")
        model = onnx.load(tmp_path / "half.onnx")
        assert {one.type.tensor_type.elem_type for one in model.graph.input} == {onnx.TensorProto.INT64}
        assert {one.type.tensor_type.elem_type for one in model.graph.output} == {onnx.TensorProto.FLOAT}
        users = {name: node.op_type for node in model.graph.node for name in node.input}
        kept = {users[one.name] for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
        assert kept <= {"LayerNormalization"}
        assert half_precision.types(tmp_path / "half.onnx")["FLOAT16"] > 10

    @pytest.mark.parametrize("number", [float(np.finfo(np.float32).min), -1e9])
    @pytest.mark.parametrize("among_weights", [False, True], ids=["Constant", "initializer"])
    def test_a_mask_of_the_lowest_number_hides_and_makes_no_nan(
        self, tmp_path: Path, number: float, *, among_weights: bool
    ) -> None:
        make = onnx.helper
        lowest = make.make_tensor("low", onnx.TensorProto.FLOAT, [], [number])
        nodes = [
            *([] if among_weights else [make.make_node("Constant", [], ["low"], value=lowest)]),
            make.make_node("Where", ["seen", "x", "low"], ["y"]),
            make.make_node("Softmax", ["y"], ["z"], axis=-1),
        ]
        seen = make.make_tensor_value_info("seen", onnx.TensorProto.BOOL, [2, 3])
        x, z = (make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xz")
        model = make.make_model(
            make.make_graph(nodes, "mask", [seen, x], [z], [lowest] * among_weights),
            opset_imports=[make.make_opsetid("", 17)],
            ir_version=8,
        )
        onnx.save(model, tmp_path / "plain.onnx")
        half_precision.cast(tmp_path / "plain.onnx", tmp_path / "half.onnx")
        mask = np.array([[True, True, False], [False, False, False]])
        found = published.answer(tmp_path / "half.onnx", {"seen": mask, "x": np.zeros((2, 3), np.float32)})["z"]
        assert found[0].tolist() == [0.5, 0.5, 0.0]
        assert found[1] == pytest.approx([1 / 3] * 3, abs=1e-3)

    def test_a_weight_beyond_its_range_is_refused_by_name(self, compiling: CompileJob) -> None:
        path = compiling.onnx.folder / names.ONNX_FILE
        model = onnx.load(path)
        weight = model.graph.initializer[0]
        values = onnx.numpy_helper.to_array(weight).copy()
        values.flat[0] = 7e4
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(model, path)
        golden = [published.tokens(1, 8, SHAPE)]
        arrays = {f"0/in/{name}": array for name, array in golden[0].items()}
        arrays |= {f"0/out/{name}": array for name, array in published.answer(path, golden[0]).items()}
        again = published.finish(compiling.onnx.folder, arrays, compiling.onnx.known.report)
        digest = again.known.report.manifest_sha256
        compiling.source = compiling.source.model_copy(update={"manifest_sha256": digest})
        compiling.ask(precision="fp16")
        assert compiling.step("stage") == 65
        assert compiling.failure().reason == "PrecisionOverflow"
        assert weight.name in compiling.failure().message
        assert "precision: fp32" in compiling.failure().next_step


class Driver:
    """libcuda.so.1 whose functions succeed, but for those that are given an error code."""

    def __init__(self, **codes: int) -> None:
        self._codes = codes

    def __getattr__(self, function: str) -> Callable[..., int]:
        return lambda *_: self._codes.get(function, 0)


def opened(pipe: Path) -> int | None:
    """A pipe's writing end, once somebody reads it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


class TestTheScript:
    def test_a_foreign_gpu_is_refused_before_anything_is_compiled(self, compiling: CompileJob) -> None:
        compiling.source = compiling.source.model_copy(update={"compute_capability": "9.0"})
        compiling.ask()
        compiling.through("stage")
        assert compiling.step("compile") == 65
        assert compiling.failure().reason == "OtherGpu"
        assert "capability 8.6, hardware profile 'gpu' says 9.0" in compiling.failure().message

    def test_a_foreign_tensorrt_is_refused(self, compiling: CompileJob) -> None:
        compiling.source = compiling.source.model_copy(update={"tensorrt_version": "10.16.0.72"})
        compiling.ask()
        compiling.through("stage")
        assert compiling.step("compile") == 65
        assert compiling.failure().reason == "OtherTensorRT"

    def test_an_image_with_an_old_tensorrt_is_refused(self, compiling: CompileJob) -> None:
        compiling.tensorrt(tensorrt_standin.module("8.6.1"))
        compiling.ask()
        compiling.through("stage")
        assert compiling.step("compile") == 65
        assert compiling.failure().reason == "TensorRTTooOld"

    def test_an_image_without_tensorrt_is_refused(self, compiling: CompileJob) -> None:
        compiling.tensorrt(None)
        compiling.ask()
        compiling.through("stage")
        assert compiling.step("compile") == 65
        assert compiling.failure().reason == "TensorRTMissing"
        assert "tensorrtImage" in compiling.failure().next_step

    def test_without_a_driver_it_says_what_to_look_at(
        self, compiling: CompileJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiling.ask()
        compiling.through("stage")

        def none(_name: str) -> None:
            raise OSError("libcuda.so.1: cannot open shared object file")

        monkeypatch.setattr(compile_engine.ctypes, "CDLL", none)
        monkeypatch.setattr(compile_engine, "Cuda", REAL_CUDA)
        assert compiling.step("compile") == 65
        assert compiling.failure().reason == "CudaUnavailable"
        assert "libcuda.so.1" in compiling.failure().message
        assert "runtimeClassName" in compiling.failure().next_step

    @pytest.mark.parametrize(
        ("code", "reason", "exit_code"),
        [
            (100, "CudaUnavailable", 65),
            (2, "GpuOutOfMemory", 65),
            *((code, "GpuNotReady", 75) for code in (3, 46, 802)),
        ],
    )
    def test_what_the_driver_says_decides_whether_it_is_tried_again(
        self, compiling: CompileJob, monkeypatch: pytest.MonkeyPatch, code: int, reason: str, exit_code: int
    ) -> None:
        compiling.ask()
        compiling.through("stage")
        monkeypatch.setattr(compile_engine.ctypes, "CDLL", lambda _: Driver(cuInit=code))
        monkeypatch.setattr(compile_engine, "Cuda", REAL_CUDA)
        assert compiling.step("compile") == exit_code
        assert compiling.failure().reason == reason
        assert f"cuInit failed, unknown (error {code})" in compiling.failure().message

    def test_a_full_gpu_says_what_makes_the_engine_smaller(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compile_engine.ctypes, "CDLL", lambda _: Driver(cuMemAlloc_v2=2))
        with pytest.raises(compile_engine.RefusalError, match="memory is full") as caught:
            REAL_CUDA().allocate(1)
        assert (caught.value.reason, caught.value.code) == ("GpuOutOfMemory", 65)
        assert "maxBatchSize or a shorter build.maxSequenceLength" in caught.value.next_step

    def test_a_gpu_that_worked_is_not_called_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compile_engine.ctypes, "CDLL", lambda _: Driver(cuStreamSynchronize=700))
        with pytest.raises(compile_engine.RefusalError, match="cuStreamSynchronize failed") as caught:
            REAL_CUDA().wait()
        assert (caught.value.reason, caught.value.code) == ("EngineFails", 70)

    def test_the_first_error_of_a_request_is_the_one_that_is_told(
        self, compiling: CompileJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken(tensorrt_standin.FakeCuda):
            def wait(self) -> None:
                raise compile_engine.RefusalError("EngineFails", "illegal address", code=70)

            def free(self, address: int) -> None:
                raise compile_engine.RefusalError("CudaUnavailable", f"can't free {address}")

        compiling.ask()
        compiling.through("stage", "compile")
        monkeypatch.setattr(compile_engine, "Cuda", Broken)
        assert compiling.step("answer") == 70
        assert compiling.failure().message == "illegal address"

    def test_sigterm_ends_it_even_while_it_waits_in_a_library(self, compiling: CompileJob) -> None:
        """A pipe that nobody writes to stands for the builder; PID 1 would not even notice SIGTERM by itself."""
        compiling.ask()
        compiling.through("stage")
        (compiling.work / engine_plan.WISH_FILE).unlink()
        os.mkfifo(compiling.work / engine_plan.WISH_FILE)
        command = [sys.executable, str(compiling.work / names.COMPILE_SCRIPT), "compile"]
        with subprocess.Popen(command) as process:
            pipe = eventually("it reads", lambda: opened(compiling.work / engine_plan.WISH_FILE))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 75
        os.close(pipe)
        assert compiling.failure().reason == "BuildStopped"

    def test_a_builder_that_gives_up_is_quoted(self, compiling: CompileJob) -> None:
        compiling.tensorrt(tensorrt_standin.module(fails="no implementation for node 7"))
        compiling.ask()
        compiling.through("stage")
        assert compiling.step("compile") == 65
        assert compiling.failure().reason == "CompileFailed"
        assert "no implementation for node 7" in compiling.failure().message

    def test_a_graph_it_cant_read_is_quoted(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage")
        (compiling.work / engine_plan.GRAPH_FILE).write_bytes(b"\xff")
        assert compiling.step("compile") == 65
        assert compiling.failure().reason == "GraphNotSupported"
        assert "In node 0" in compiling.failure().message

    def test_its_key_is_ours(self) -> None:
        material = {"onnx": "5", "profiles": [{"min": [1, 1]}]}
        ours = engine_plan.artifact_key(material, "8.6", "11.2.1.2")
        assert compile_engine.artifact_key(material, "8.6", "11.2.1.2") == ours


class TestJudgement:
    def test_an_engine_that_answers_otherwise_is_refused(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage", "compile", "answer")
        first = json.loads((compiling.work / engine_plan.ANSWERS_FILE).read_text())[0]["logits"]
        file = compiling.work / first["file"]
        file.write_bytes((np.frombuffer(file.read_bytes(), "<f4") + np.float32(0.5)).tobytes())
        assert compiling.step("compare") == 65
        assert compiling.failure().reason == "FidelityExceeded"

    def test_a_missing_answer_is_no_match(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage", "compile", "answer")
        answers = compiling.work / engine_plan.ANSWERS_FILE
        answers.write_text(json.dumps(json.loads(answers.read_text())[:-1]))
        assert compiling.step("compare") == 65
        assert "isn't there" in compiling.failure().message

    def test_fp16_that_became_fp32_is_refused_although_it_answers_well(self, compiling: CompileJob) -> None:
        compiling.ask(precision="fp16")
        compiling.through("stage")
        plain = (compiling.onnx.folder / names.ONNX_FILE).read_bytes()
        (compiling.work / engine_plan.GRAPH_FILE).write_bytes(plain)
        compiling.through("compile", "answer")
        assert compiling.step("compare") == 65
        assert compiling.failure().reason == "EngineNotAsAsked"
        assert "fp16 was asked for" in compiling.failure().message

    def test_other_profiles_than_asked_for_are_refused(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage", "compile", "answer")
        change(compiling.work / engine_plan.FOUND_FILE, profiles=[])
        assert compiling.step("compare") == 65
        assert "profiles" in compiling.failure().message

    def test_a_wrong_key_is_refused(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage", "compile", "answer")
        change(compiling.work / engine_plan.FOUND_FILE, artifact_key="0" * 32)
        assert compiling.step("compare") == 70

    @pytest.mark.parametrize(
        ("layers", "plan_bytes", "fault"),
        [
            ({"FP16": 30, "FP32": 9}, 440_000_000, ""),
            ({"FP32": 9}, 440_000_000, "holds fp32"),
            ({}, 440_000_000, "holds fp32"),
            ({}, 220_000_000, ""),
        ],
    )
    def test_layers_and_size_tell_a_quiet_fp32(self, layers: dict[str, int], plan_bytes: int, fault: str) -> None:
        found = engine.Found(
            artifact_key="5",
            compute_capability="8.6",
            tensorrt_version="11",
            gpu="",
            reused=False,
            matmul_types={"FP16": 12},
            layer_types=layers,
            plan_bytes=plan_bytes,
        )
        said = engine.precision_fault(Precision.FP16, found, 440_000_000)
        assert fault in said
        assert bool(said) == bool(fault)
