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

from bert_build import engine, engine_plan, golden_answers, job, recorded
from bert_build.handlers.tensorrt import compile_engine
from bert_build.recorded import Recorded, Recording
from bert_build.samples import Sample
from bert_build.store import Store
from bert_operator.api import names
from bert_operator.api.report import BuildFailure, BuildReport, BuildRequest, OnnxArtifact
from bert_operator.api.spec import Build, Format, Precision, Task
from bert_operator.api.steps import job_steps, plain
from support import onnx_bert, published, tensorrt_standin
from support.operator_process import eventually

REAL_CUDA = compile_engine.Cuda
SHAPE = onnx_bert.Shape(layers=1, longest=24)


class CompileJob:
    """The containers of one compile Job, over one store."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.log = folder / "termination-log"
        self.jobs = 0
        monkeypatch.setenv("BERTOPS_TERMINATION_LOG", str(self.log))
        monkeypatch.setattr(compile_engine, "Cuda", tensorrt_standin.FakeCuda)
        self.tensorrt(tensorrt_standin.module())
        self.one_row = [published.tokens(1, 8, SHAPE), published.tokens(1, 16, SHAPE, seed=1)]
        self.onnx = published.publish(folder / "store/artifacts" / f"onnx-{published.KEY}", SHAPE, self.one_row)
        self.source = OnnxArtifact(
            artifact_key=published.KEY,
            manifest_sha256=self.onnx.known.report.manifest_sha256,
            revision="main",
            profile="gpu",
        )

    def finish(self, *, without_texts: bool = False) -> None:
        """Publish what is in the ONNX artifact's folder again, with token ids to judge by and to calibrate with."""
        ids = [Sample("x", published.tokens(1, length, SHAPE, seed=length)) for length in (5, 9, 13, 20)]
        texts = [Recorded(one, {}) for one in ids[:2]]
        if not without_texts:
            recorded.save_ids(self.onnx.folder / names.TEXTS_FILE, Recording(texts, 0, ids))
        arrays: published.Arrays = {}
        for number, one in enumerate(self.one_row):
            arrays |= {f"{number}/in/{name}": array for name, array in one.items()}
            answers = published.answer(self.onnx.folder / names.ONNX_FILE, one)
            arrays |= {f"{number}/out/{name}": array for name, array in answers.items()}
        again = published.finish(self.onnx.folder, arrays, self.onnx.known.report)
        self.source = self.source.model_copy(update={"manifest_sha256": again.known.report.manifest_sha256})

    def spoil(self, weight: str, number: float) -> None:
        """Put one number into a weight of the source."""
        path = self.onnx.folder / names.ONNX_FILE
        model = onnx.load(path)
        tensor = next(one for one in model.graph.initializer if one.name == weight)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[0] = number
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, weight))
        onnx.save(model, path)
        self.finish()

    def answer_wrongly(self, more: float) -> None:
        """Add something to what the engine answered to the first request."""
        first = json.loads((self.work / engine_plan.ANSWERS_FILE).read_text())[0]["logits"]
        file = self.work / first["file"]
        file.write_bytes((np.frombuffer(file.read_bytes(), "<f4") + np.float32(more)).tobytes())

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
        if plain(name) in ("compile", "answer"):
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


def steps(precision: str) -> tuple[str, ...]:
    """All containers of a Job that may fall back."""
    return job_steps(Build(task=Task.FEATURE_EXTRACTION, format=Format.TENSORRT, precision=Precision(precision)))


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompileJob:
    return CompileJob(tmp_path, monkeypatch)


def wish(compiling: CompileJob) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((compiling.work / engine_plan.WISH_FILE).read_text())
    return found


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestTheWholeJob:
    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
    def test_publishes_an_engine_that_answers_like_the_source(self, compiling: CompileJob, precision: str) -> None:
        compiling.finish()
        fidelity = {"onFailure": "Fail"}
        compiling.ask(precision=precision, sequenceBuckets=[8, 16], maxBatchSize=4, fidelity=fidelity)
        compiling.through(*STEPS)
        report = compiling.report()
        assert (report.format, report.precision, report.reused) == ("tensorrt", precision, False)
        assert (report.compute_capability, report.tensorrt_version) == ("8.6", "11.2.1.2")
        assert [one.max for one in report.profiles] == [[4, 8], [4, 16], [4, 24]]
        assert [(one.name, one.dtype, one.dims) for one in report.outputs] == [("logits", "FP32", [2])]
        assert report.revision == "main"
        assert report.fidelity.samples == 2 + 2 + 3 + 2, "golden, other texts, the longest, golden as sent"
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
        # An engine that is there, but another one.
        compiling.ask(read_only=True, maxSequenceLength=16)
        assert compiling.step("stage") == 73
        assert compiling.failure().reason == "StoreReadOnly"

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
        assert shapes[-3:] == [(3, 24), (1, 8), (1, 16)]  # all of them in one batch, and the golden ones as they are

    def test_nothing_of_the_store_reaches_the_gpu_but_the_graph(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage")
        graph = compiling.work / engine_plan.GRAPH_FILE
        assert graph.read_bytes() == (compiling.onnx.folder / names.ONNX_FILE).read_bytes()
        assert wish(compiling)["graph"] == engine_plan.GRAPH_FILE

    @pytest.mark.parametrize("longest", [24, 12])
    def test_golden_requests_are_asked_and_kept_as_pods_will_ask_them(
        self, compiling: CompileJob, longest: int
    ) -> None:
        """An ONNX artifact may take more tokens than the engine: what the engine can't take, no pod may ask it."""
        compiling.one_row[1]["attention_mask"][:, 10:] = 0
        compiling.finish()
        compiling.ask(maxSequenceLength=longest)
        compiling.through(*STEPS)
        fitting = [one for one in compiling.one_row if one["input_ids"].shape[1] <= longest]
        engine = compiling.folder / "store/artifacts" / f"tensorrt-{compiling.report().artifact_key}"
        kept = golden_answers.read(engine / names.GOLDEN_FILE)
        assert [one.inputs["input_ids"].tolist() for one in kept] == [one["input_ids"].tolist() for one in fitting]
        asked = wish(compiling)["requests"][-len(fitting) :]
        masks = [compiling.work / one["inputs"]["attention_mask"]["file"] for one in asked]
        assert [path.read_bytes() for path in masks] == [one["attention_mask"].tobytes() for one in fitting]
        others = [one.sample.real.shape for one in recorded.load(compiling.work / recorded.FILE).texts]
        assert (1, 10) in others, "its text is judged all the same, without the padding"

    def test_no_published_artifact_is_written_to(self, compiling: CompileJob) -> None:
        """`stage` has the store read-only, and a stray file beside a graph would make it no artifact any more."""
        compiling.finish()
        store = compiling.folder / "store"
        compiling.ask(precision="int8")
        untouched(store)
        compiling.through("stage")
        assert touched(store) == []
        compiling.through("compile", "answer")
        compiling.answer_wrongly(float("nan"))
        compiling.through("compare", "compile-fp16")
        compiling.answer_wrongly(float("nan"))
        untouched(store)
        compiling.through("compare-fp16")
        assert wish(compiling)["precision"] == "mixed"
        assert touched(store / names.ARTIFACTS_FOLDER) == []


def untouched(folder: Path) -> None:
    """Make everything look very old: whatever is written, made or removed shows in the time of its folder."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (0, 0))


def touched(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.rglob("*")) if path.stat().st_mtime_ns]


class TestFallback:
    """What isn't close enough, or what TensorRT can't compile, is tried in the next finer precision."""

    def test_its_containers_do_nothing_where_the_first_precision_is_close(self, compiling: CompileJob) -> None:
        compiling.ask(precision="fp16")
        compiling.through(*steps("fp16"))
        assert compiling.report().lowering is None
        assert set(compiling.report().durations_seconds) == {"stage", "compile", "compare"}

    def test_a_weight_beyond_fp16_makes_it_mixed_before_a_gpu_is_used(self, compiling: CompileJob) -> None:
        compiling.spoil("layer0.query.weight", 7e4)
        compiling.ask(precision="fp16")
        compiling.through("stage")
        assert wish(compiling)["precision"] == "mixed"
        compiling.through(*steps("fp16")[1:])
        report = compiling.report()
        assert report.precision == "mixed"
        assert report.lowering is not None
        assert (report.lowering.asked, report.lowering.achieved) == ("fp16", "mixed")
        assert report.lowering.why.startswith("fp16: weight layer0.query.weight holds 7e+04, FP16 ends at 65504")

    def test_activations_beyond_fp16_are_caught_on_the_cpu_and_make_it_mixed(self, compiling: CompileJob) -> None:
        """Weights that FP16 holds; what they make of activations it doesn't."""
        compiling.spoil("layer0.wide.weight", 6e4)
        compiling.ask(precision="fp16")
        compiling.through(*steps("fp16"))
        report = compiling.report()
        assert report.precision == "mixed"
        assert report.lowering is not None
        assert report.lowering.why.startswith("fp16: output logits holds NaN or infinity")

    def test_without_it_that_is_an_error_with_advice(self, compiling: CompileJob) -> None:
        compiling.spoil("layer0.query.weight", 7e4)
        compiling.ask(precision="fp16", fidelity={"onFailure": "Fail"})
        assert compiling.step("stage") == 65
        assert compiling.failure().reason == "PrecisionOverflow"
        assert "layer0.query.weight" in compiling.failure().message
        assert "onFailure: Fallback" in compiling.failure().next_step

    def test_answers_that_only_a_gpu_gives_wrong_fall_back_too(self, compiling: CompileJob) -> None:
        """E.g. numbers that leave FP16's range in a kernel."""
        compiling.ask(precision="fp16")
        compiling.through("stage", "compile", "answer")
        compiling.answer_wrongly(float("nan"))
        compiling.through("compare")
        assert wish(compiling)["precision"] == "mixed"
        compiling.through("compile-mixed", "compare-mixed", "compile-fp32", "compare-fp32", "publish")
        report = compiling.report()
        assert report.precision == "mixed"
        assert report.lowering is not None
        assert report.lowering.why.startswith("fp16: output logits holds NaN or infinity")
        assert "compile-mixed" in report.durations_seconds
        assert len(compiling.log.read_bytes()) <= 3500

    def test_it_ends_in_fp32_and_each_refusal_is_told(self, compiling: CompileJob) -> None:
        compiling.tensorrt(tensorrt_standin.module(fails="no kernel", fails_in=("Half", "BFloat16")))
        compiling.ask(precision="bf16")
        compiling.through(*steps("bf16"))
        report = compiling.report()
        assert report.precision == "fp32"
        assert report.lowering is not None
        assert [part.split(":")[0] for part in report.lowering.why.split("; ")] == ["bf16", "fp16", "mixed"]
        assert "no kernel" in report.lowering.why
        assert report.fidelity.limit_min_cosine == 0.99999

    def test_a_fallback_is_judged_no_more_loosely_than_the_spec_says(self, compiling: CompileJob) -> None:
        compiling.tensorrt(tensorrt_standin.module(fails="no kernel", fails_in=("BFloat16",)))
        compiling.ask(precision="bf16", fidelity={"minCosine": "0.9995", "maxAbsDifference": "0.5"})
        compiling.through(*steps("bf16"))
        report = compiling.report()
        assert report.precision == "fp16"
        assert report.fidelity.limit_min_cosine == 0.9995
        assert report.fidelity.limit_max_abs_difference < 0.5

    def test_where_nothing_is_left_all_is_told(self, compiling: CompileJob) -> None:
        compiling.tensorrt(tensorrt_standin.module(fails="no kernel", fails_in=("Half",)))
        compiling.ask(precision="fp16")
        compiling.through(*steps("fp16")[:-3])
        assert wish(compiling)["precision"] == "fp32"
        compiling.through("compile-fp32")
        change(compiling.work / engine_plan.FOUND_FILE, matmul_types={"FP16": 1})
        assert compiling.step("compare-fp32") == 65
        message = compiling.failure().message
        assert "fp16: " in message
        assert "mixed: " in message
        assert "fp32: The network's matrix products are {'FP16': 1}, fp32 was asked for" in message

    def test_a_gpu_without_bf16_is_given_fp16(self, compiling: CompileJob, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt_standin.FakeCuda, "compute_capability", "7.5")
        compiling.ask(precision="bf16")
        compiling.through(*steps("bf16"))
        assert compiling.report().precision == "fp16"
        assert compiling.report().lowering is not None
        assert "doesn't compute in bf16" in compiling.report().lowering.why

    def test_int8_of_an_artifact_without_token_ids_says_what_to_do(self, compiling: CompileJob) -> None:
        compiling.finish(without_texts=True)
        compiling.ask(precision="int8")
        assert compiling.step("stage") == 65
        assert compiling.failure().reason == "NothingToCalibrate"
        assert "bertops.dev/refresh" in compiling.failure().next_step
        assert "if source.artifact names it, name another ONNX artifact" in compiling.failure().next_step


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
        compiling.answer_wrongly(0.5)
        assert compiling.step("compare") == 65
        assert compiling.failure().reason == "FidelityExceeded"

    def test_a_missing_answer_is_no_match(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage", "compile", "answer")
        answers = compiling.work / engine_plan.ANSWERS_FILE
        answers.write_text(json.dumps(json.loads(answers.read_text())[:-1]))
        assert compiling.step("compare") == 65
        assert "isn't there" in compiling.failure().message

    @pytest.mark.parametrize(("precision", "found"), [("fp16", "fp16"), ("int8", "int8")])
    def test_what_became_fp32_is_refused_although_it_answers_well(
        self, compiling: CompileJob, precision: str, found: str
    ) -> None:
        compiling.finish()
        compiling.ask(precision=precision, fidelity={"onFailure": "Fail"})
        compiling.through("stage")
        plain = (compiling.onnx.folder / names.ONNX_FILE).read_bytes()
        (compiling.work / engine_plan.GRAPH_FILE).write_bytes(plain)
        compiling.through("compile", "answer")
        assert compiling.step("compare") == 65
        assert compiling.failure().reason == "EngineNotAsAsked"
        assert f"{found} was asked for" in compiling.failure().message

    def test_a_tensor_of_another_type_than_the_graphs_is_refused(self, compiling: CompileJob) -> None:
        compiling.ask()
        compiling.through("stage", "compile", "answer")
        outputs = [{"name": "logits", "dtype": "FP16", "dims": [2]}]
        change(compiling.work / engine_plan.FOUND_FILE, outputs=outputs)
        assert compiling.step("compare") == 65
        assert "Tensor logits of the engine is FP16, the graph's is FP32" in compiling.failure().message

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
        ("rung", "says", "fault"),
        [
            ("fp16", {"layer_types": {"FP16": 30, "FP32": 9}, "plan_bytes": 440}, ""),
            ("fp16", {"layer_types": {"FP32": 9}, "plan_bytes": 440}, "isn't fp16: no layer of it is FP16"),
            ("fp16", {"plan_bytes": 440}, "isn't fp16"),
            ("fp16", {"plan_bytes": 230}, ""),
            ("bf16", {"layer_types": {"BF16": 3}, "matmul_types": {"BF16": 12}}, ""),
            ("bf16", {"layer_types": {"BF16": 3}, "matmul_types": {"FP16": 12}}, "matrix products are {'FP16': 12}"),
            ("mixed", {"layer_types": {"FP16": 3}, "matmul_types": {"FP16": 2, "FP32": 9}}, ""),
            ("mixed", {"layer_types": {"FP32": 3}, "matmul_types": {"FP16": 2, "FP32": 9}}, "No layer of the engine"),
            ("mixed", {"matmul_types": {"FP32": 9}}, "mixed was asked for"),
            ("int8", {"layer_types": {"INT8": 3, "FP16": 9}, "quantize_layers": 3, "gemm_types": {"INT8": 3}}, ""),
            ("int8", {"layer_types": {"INT8": 3}, "quantize_layers": 3, "gemm_types": {"FP32": 9}}, "products take"),
            ("int8", {"layer_types": {"FP16": 9}, "quantize_layers": 3, "plan_bytes": 300}, "no layer of it is INT8"),
            ("int8", {"plan_bytes": 220, "quantize_layers": 3}, ""),
            ("int8", {"layer_types": {"INT8": 3}}, "holds no quantised value"),
            ("fp32", {"matmul_types": {"FP32": 12}, "layer_types": {"FP32": 1}}, ""),
            ("fp32", {"matmul_types": {"FP16": 12}}, "fp32 was asked for"),
        ],
    )
    def test_layers_and_size_tell_what_quietly_became_another_precision(
        self, rung: str, says: dict[str, Any], fault: str
    ) -> None:
        """Sizes in millions of bytes, of a graph of 220."""
        told = {"matmul_types": {"FP16": 12}, "graph_bytes": 220, **says}
        sizes = {name: told.pop(name, 0) * 10**6 for name in ("graph_bytes", "plan_bytes")}
        place = {"artifact_key": "5", "compute_capability": "8.6", "tensorrt_version": "11", "gpu": ""}
        said = engine.precision_fault(rung, engine.Found(reused=False, **place, **told, **sizes))
        assert fault in said
        assert bool(said) == bool(fault)
