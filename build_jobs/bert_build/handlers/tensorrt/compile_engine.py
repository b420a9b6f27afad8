"""Compiles a TensorRT engine and asks it: the steps `compile` and `answer` of a compile Job, on a GPU.

`stage` copies this file into the Job's work folder, beside compile.json, which says everything that was decided. It
runs in NVIDIA's image, where only Python and TensorRT are sure to be: the standard library, `tensorrt` and the driver's
libcuda, nothing else of ours. Written for TensorRT 10 and 11: networks are strongly typed, so the types of the graph
are the types of the engine, and no builder flag asks for a precision (TensorRT 11 has none: a guard around such a flag
would quietly build FP32). What it found is judged later, by our own code in our own image.
"""

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

USER_ERROR: Final = 65
INTERNAL: Final = 70
PASSING: Final = 75
OLDEST: Final = 10
"""Major version of TensorRT that knows strongly typed networks and keeps INT64."""
ALWAYS_STRONGLY_TYPED: Final = 11
DTYPES: Final = {"FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT64": "INT64", "INT32": "INT32", "BOOL": "BOOL"}
"""TensorRT's names -> Triton's."""
ONLY_HERE: Final = ("CompileFailed", "GraphNotSupported", "GpuLacksType")
"""Reasons that another precision may not have: a Job that may fall back goes on without this engine."""
SIZES: Final = {"FP32": 4, "FP16": 2, "BF16": 2, "INT64": 8, "INT32": 4, "BOOL": 1}
"""Bytes of one element."""
_REPORT_IT: Final = "Please report this with the pod's log."
_EVERY_SECONDS: Final = 5.0
_LAST_ERRORS: Final = 3


class RefusalError(Exception):
    """Why this step can't go on: the termination message of its container."""

    def __init__(self, reason: str, message: str, next_step: str = "", code: int = USER_ERROR) -> None:
        super().__init__(message)
        self.reason, self.message, self.next_step, self.code = reason, message, next_step, code


def main(arguments: "list[str]", work: "Path | None" = None) -> int:
    """Run one step; returns the exit code. Whatever goes wrong is said in one line, and the log has the rest."""
    work = work or Path(__file__).resolve().parent
    steps = {"compile": compile_engine, "answer": answer_requests}
    step, _, rung = arguments[0].partition("-")
    try:
        if rung:
            compile_and_answer(work, rung)
        else:
            steps[step](work)
    except RefusalError as refusal:
        return _refuse(refusal)
    except Exception as error:  # noqa: BLE001 - the last line of defence: the log has the traceback
        sys.excepthook(type(error), error, error.__traceback__)
        message = f"Step {arguments[0]} failed unexpectedly: {type(error).__name__}: {error}"
        return _refuse(RefusalError("InternalError", message, _REPORT_IT, INTERNAL))
    return 0


def compile_and_answer(work: Path, rung: str) -> None:
    """Both steps for a precision that the Job fell back to; nothing if it didn't."""
    wish = json.loads((work / "compile.json").read_text(encoding="utf-8"))
    if wish["settled"] or wish["precision"] != rung:
        say("compile", f"nothing to do: no engine in {rung} is asked for")
        return
    compile_engine(work)
    answer_requests(work)


def compile_engine(work: Path) -> None:
    """Compile the staged graph into artifact/model.plan, unless the store has that engine already.

    Raises:
        RefusalError: that doesn't work, and no other precision would help or may be tried.
    """
    wish = json.loads((work / "compile.json").read_text(encoding="utf-8"))
    cuda = Cuda()
    say("compile", f"{cuda.name}, compute capability {cuda.compute_capability}")
    trt = load_tensorrt()
    _check_place(wish["expected"], cuda, trt)
    found = {
        "artifact_key": artifact_key(wish["key_material"], cuda.compute_capability, trt.__version__),
        "compute_capability": cuda.compute_capability,
        "tensorrt_version": trt.__version__,
        "gpu": cuda.name,
    }
    found["reused"] = found["artifact_key"] in wish["published"]
    if found["reused"]:
        say("compile", f"nothing to do: tensorrt-{found['artifact_key']} is in the store already")
    else:
        try:
            found.update(_built(work, wish, trt, cuda))
        except RefusalError as refusal:
            if not wish["falls_back"] or refusal.reason not in ONLY_HERE:
                raise
            say("compile", f"no engine in {wish['precision']}: {refusal.message}")
            found["failed"] = refusal.message[:500]
    (work / "compiled.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def answer_requests(work: Path) -> None:
    """Load the engine as a server would, and write down what it answers to the staged requests."""
    compiled = json.loads((work / "compiled.json").read_text(encoding="utf-8"))
    if compiled["reused"] or compiled.get("failed"):
        say("answer", f"nothing to do: {compiled.get('failed') or 'the engine is in the store already'}")
        return
    wish = json.loads((work / "compile.json").read_text(encoding="utf-8"))
    cuda = Cuda()
    trt = load_tensorrt()
    if cuda.compute_capability != compiled["compute_capability"]:
        message = f"The engine was compiled for {compiled['compute_capability']}, this is {cuda.compute_capability}."
        raise RefusalError("OtherGpu", message, "It is tried again.", PASSING)
    runner = Engine(trt, cuda, (work / wish["plan"]).read_bytes())
    answers = []
    for number, request in enumerate(wish["requests"]):
        answered = runner.ask(request["profile"], _tensors(work, request["inputs"]))
        answers.append(_kept(work, number, answered))
    say("answer", f"{len(answers)} requests answered")
    for number, profile in enumerate(wish["profiles"]):
        for bound in ("min", "max"):
            runner.ask(number, runner.zeros(profile[bound]))
    say("answer", f"the smallest and the largest batch of {len(wish['profiles'])} profiles ran")
    (work / "engine-answers.json").write_text(json.dumps(answers), encoding="utf-8")


def artifact_key(material: "dict[str, Any]", compute_capability: str, tensorrt_version: str) -> str:
    """32 hex digits: everything that decides the engine. Our own code takes the same digest again."""
    whole = {**material, "computeCapability": compute_capability, "tensorrtVersion": tensorrt_version}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def load_tensorrt() -> Any:  # noqa: ANN401 - a module that isn't installed where this is checked
    """The module `tensorrt`, 10 or newer.

    Raises:
        RefusalError: there is none, or it is too old.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise RefusalError(
            "TensorRTMissing",
            f"This image has no usable Python module tensorrt: {error}",
            "Set triton.releases.<release>.tensorrtImage in the operator's chart to nvcr.io/nvidia/tensorrt:YY.MM-py3 "
            "of the server's month.",
        ) from error
    if _major(trt) < OLDEST:
        raise RefusalError(
            "TensorRTTooOld",
            f"This image has TensorRT {trt.__version__}; engines are compiled with {OLDEST} or newer.",
            "Use a release of Triton from 24.10 on and the TensorRT image of the same month.",
        )
    return trt


def _major(trt: Any) -> int:  # noqa: ANN401 - as above
    return int(trt.__version__.partition(".")[0])


def say(step: str, text: str) -> None:
    """One line of progress."""
    print(f"[{step}] {text}", flush=True)  # noqa: T201 - the pod's log is where a waiting user looks


def _refuse(refusal: RefusalError) -> int:
    print(f"{refusal.reason}: {refusal.message} {refusal.next_step}", file=sys.stderr, flush=True)  # noqa: T201 - as above
    told = {"reason": refusal.reason, "message": refusal.message[:1400], "nextStep": refusal.next_step[:700]}
    path = Path(os.environ.get("BERTOPS_TERMINATION_LOG", "/dev/termination-log"))
    try:
        path.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        print(f"{path} can't be written: {error}", file=sys.stderr)  # noqa: T201 - as above
    return refusal.code


def _check_place(expected: "dict[str, str]", cuda: "Cuda", trt: Any) -> None:  # noqa: ANN401 - as above
    """Refuse, before minutes are spent, a GPU or a TensorRT that the servers won't have."""
    wished = expected["compute_capability"]
    if wished and wished != cuda.compute_capability:
        raise RefusalError(
            "OtherGpu",
            f"This node's GPU ({cuda.name}) has compute capability {cuda.compute_capability}, hardware profile "
            f"{expected['profile']!r} says {wished}: its servers could not load the engine.",
            f"Correct hardwareProfiles.{expected['profile']}.computeCapability or its nodeSelector in the operator's "
            "chart.",
        )
    version = expected["tensorrt_version"]
    if version and version != trt.__version__:
        raise RefusalError(
            "OtherTensorRT",
            f"This image has TensorRT {trt.__version__}, the release's settings say {version}: its servers could not "
            "load the engine.",
            "Correct tensorrtImage or tensorrtVersion of the release in the operator's chart.",
        )


# ---- the driver


class Cuda:
    """The first GPU that this container sees, through the driver's own library: CUDA's runtime may not be there."""

    _MAJOR: Final = 75
    _MINOR: Final = 76
    _OUT_OF_MEMORY: Final = 2
    _NOT_READY: Final = frozenset({3, 46, 802})
    """Not initialized, devices unavailable, system not ready: the node's driver is starting, or its GPU is taken."""

    def __init__(self) -> None:
        self._usable = False
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise RefusalError("CudaUnavailable", f"No NVIDIA driver in this container: {error}", _NO_DRIVER) from error
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        context = ctypes.c_void_p()
        # TensorRT works in the device's primary context too.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self.compute_capability = f"{self._attribute(self._MAJOR, device)}.{self._attribute(self._MINOR, device)}"
        name = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode(errors="replace")
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)
        self._usable = True

    def allocate(self, size: int) -> int:
        """Device memory; returns its address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return int(address.value)

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, data: bytes) -> None:
        """Copy to the device."""
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), data, ctypes.c_size_t(len(data)))

    def download(self, address: int, size: int) -> bytes:
        """Copy from the device."""
        buffer = ctypes.create_string_buffer(size)
        self._call("cuMemcpyDtoH_v2", buffer, ctypes.c_uint64(address), ctypes.c_size_t(size))
        return buffer.raw

    def wait(self) -> None:
        """Until everything on our stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:  # noqa: ANN401 - ctypes' values
        code = getattr(self._driver, function)(*arguments)
        if code:
            raise self._refusal(code, f"{function} failed, {self._meaning(code)}")

    def _refusal(self, code: int, failed: str) -> RefusalError:
        if code == self._OUT_OF_MEMORY:
            return RefusalError("GpuOutOfMemory", f"The GPU's memory is full: {failed}", _MORE_ROOM)
        if code in self._NOT_READY:
            return RefusalError("GpuNotReady", f"The GPU isn't ready: {failed}", "It is tried again.", PASSING)
        if self._usable:
            return RefusalError("EngineFails", f"CUDA failed on {self.name}: {failed}", _REPORT_IT, INTERNAL)
        return RefusalError("CudaUnavailable", f"CUDA can't be used: {failed}", _NO_DRIVER)

    def _meaning(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._driver.cuGetErrorString(code, ctypes.byref(text))
        return f"{(text.value or b'unknown').decode(errors='replace')} (error {code})"


_NO_DRIVER: Final = (
    "Check the NVIDIA driver and container toolkit of the node, and hardwareProfiles.<profile>.runtimeClassName in the "
    "operator's chart."
)
_MORE_ROOM: Final = (
    "Write a smaller build.maxBatchSize or a shorter build.maxSequenceLength, or use a GPU with more free memory."
)


# ---- building


def _built(work: Path, wish: "dict[str, Any]", trt: Any, cuda: Cuda) -> "dict[str, Any]":  # noqa: ANN401 - as above
    """Build, write and inspect the engine; returns what was found."""
    began = time.monotonic()
    if float(cuda.compute_capability) < wish["least_capability"]:
        message = f"{cuda.name} (compute capability {cuda.compute_capability}) doesn't compute in {wish['precision']}."
        raise RefusalError("GpuLacksType", message, "Write build.precision: fp16.")
    logger = _make_logger(trt)
    builder = _make_builder(trt, logger)
    network = _strongly_typed(trt, builder)
    _parse(trt, network, logger, work / wish["graph"])
    config = _configured(trt, builder, wish)
    cache = _timing_cache(work, config, _cache_name(cuda, trt))
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise RefusalError(
            "CompileFailed",
            f"TensorRT {trt.__version__} can't compile the model on {cuda.name}: {logger.told()}",
            "See the pod's log; a GPU with more free memory or a smaller build.maxBatchSize may help.",
        )
    plan = work / wish["plan"]
    plan.write_bytes(memoryview(serialized))
    seconds = round(time.monotonic() - began, 1)
    say("compile", f"done in {seconds} s, {plan.stat().st_size / 2**20:.1f} MiB")
    _keep_timing_cache(work, cache, _cache_name(cuda, trt))
    return {
        "seconds": seconds,
        "plan_bytes": plan.stat().st_size,
        "graph_bytes": sum(path.stat().st_size for path in (work / wish["graph"]).parent.iterdir()),
        "quantize_layers": _quantize_layers(trt, network),
        "matmul_types": _matmul_types(trt, network),
        "timing_cache": _cache_name(cuda, trt),
        **Engine(trt, cuda, plan.read_bytes()).described(),
    }


def _make_logger(trt: Any) -> Any:  # noqa: ANN401 - as above
    """A logger that prints warnings and remembers errors for the message."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:  # noqa: ANN401 - an enum of a module that isn't here
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(text)
            if severity not in (trt.ILogger.Severity.INFO, trt.ILogger.Severity.VERBOSE):
                say("tensorrt", text)

        def told(self) -> str:
            return "; ".join(self.errors[-_LAST_ERRORS:]) or "no reason given"

    return Logger()


def _make_builder(trt: Any, logger: Any) -> Any:  # noqa: ANN401 - as above
    try:
        return trt.Builder(logger)
    except TypeError as error:
        # Its factory answers with nothing where CUDA can't be initialised.
        message = f"TensorRT {trt.__version__} can't be initialised: {logger.told()}"
        raise RefusalError("CudaUnavailable", message, _NO_DRIVER) from error


def _strongly_typed(trt: Any, builder: Any) -> Any:  # noqa: ANN401 - as above
    """A network whose tensors keep the types that the graph gives them, in every release."""
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    # Since 11 there is no other kind, and the flag may say nothing any more.
    if _major(trt) < ALWAYS_STRONGLY_TYPED and not network.get_flag(flag):
        message = f"TensorRT {trt.__version__} made a network that isn't strongly typed."
        raise RefusalError("InternalError", message, _REPORT_IT, INTERNAL)
    return network


def _parse(trt: Any, network: Any, logger: Any, graph: Path) -> None:  # noqa: ANN401 - as above
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(graph)):
        return
    errors = "; ".join(str(parser.get_error(number)) for number in range(min(parser.num_errors, _LAST_ERRORS)))
    raise RefusalError(
        "GraphNotSupported",
        f"TensorRT {trt.__version__} can't read the ONNX graph: {errors}",
        "Write build.format: onnx, or use a newer release of the server; please report it with the model's name.",
    )


def _configured(trt: Any, builder: Any, wish: "dict[str, Any]") -> Any:  # noqa: ANN401 - as above
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wish["workspace_bytes"])
    config.builder_optimization_level = wish["optimization_level"]
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE
    # So that the types of the layers can be read from the engine.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _make_monitor(trt)
    if not wish["tf32"]:
        # On by default: it rounds the operands of FP32 products to 10 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
    for shapes in wish["profiles"]:
        profile = builder.create_optimization_profile()
        for name in wish["inputs"]:
            profile.set_shape(name, tuple(shapes["min"]), tuple(shapes["opt"]), tuple(shapes["max"]))
        if config.add_optimization_profile(profile) < 0:
            raise RefusalError("ProfileRefused", f"TensorRT refuses the shapes {shapes}.", code=INTERNAL)
    return config


def _make_monitor(trt: Any) -> Any:  # noqa: ANN401 - as above
    """Says now and then how far the builder is."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.said = 0.0

        def phase_start(self, phase_name: str, parent_phase: "str | None", num_steps: int) -> None:
            del parent_phase
            self.steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self.said > _EVERY_SECONDS:
                self.said = time.monotonic()
                say("compile", f"{phase_name}: {step + 1} of {self.steps.get(phase_name, '?')}")
            return True

    return Monitor()


def _cache_name(cuda: Cuda, trt: Any) -> str:  # noqa: ANN401 - as above
    """One for each kind of GPU and TensorRT: a foreign one is of no use."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in cuda.name)
    return f"{plain}-{cuda.compute_capability}-{trt.__version__}.cache"


def _timing_cache(work: Path, config: Any, name: str) -> Any:  # noqa: ANN401 - as above
    """What earlier builds on this kind of GPU measured, or an empty one. TensorRT itself refuses a foreign one."""
    file = work / "timing-caches" / name
    known = file.read_bytes() if file.is_file() else b""
    for content in dict.fromkeys((known, b"")):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            say("compile", f"timing cache: {len(content)} bytes known")
            return cache
    return None


def _keep_timing_cache(work: Path, cache: Any, name: str) -> None:  # noqa: ANN401 - as above
    if cache is None:
        return
    folder = work / "timing-caches"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(memoryview(cache.serialize()))


def _matmul_types(trt: Any, network: Any) -> "dict[str, int]":  # noqa: ANN401 - as above
    """How many matrix products of the network there are in each type."""
    found: dict[str, int] = {}
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type == trt.LayerType.MATRIX_MULTIPLY:
            name = _dtype(layer.get_output(0).dtype)
            found[name] = found.get(name, 0) + 1
    return found


def _quantize_layers(trt: Any, network: Any) -> int:  # noqa: ANN401 - as above
    """How many layers of the network make eight bits of more."""
    types = [network.get_layer(number).type for number in range(network.num_layers)]
    return types.count(trt.LayerType.QUANTIZE)


def _dtype(value: Any) -> str:  # noqa: ANN401 - as above
    """Triton's name of a type of TensorRT."""
    name = str(value.name)
    return DTYPES.get(name, name)


# ---- running


class Engine:
    """An engine that can be asked, as Triton would ask it."""

    def __init__(self, trt: Any, cuda: Cuda, plan: bytes) -> None:  # noqa: ANN401 - as above
        self._trt, self._cuda = trt, cuda
        self._logger = _make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise RefusalError(
                "EngineUnusable", f"The engine can't be loaded again: {self._logger.told()}", code=INTERNAL
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            message = f"The engine loads, but has no room to run: {self._logger.told()}"
            raise RefusalError("GpuOutOfMemory", message, _MORE_ROOM)
        engine = self._engine
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]

    def described(self) -> "dict[str, Any]":
        """What the engine says about itself."""
        engine = self._engine
        first = self._inputs[0]
        shapes = [engine.get_tensor_profile_shape(first, n) for n in range(engine.num_optimization_profiles)]
        return {
            "inputs": [self._tensor(name) for name in self._inputs],
            "outputs": [self._tensor(name) for name in self._outputs],
            "profiles": [
                {key: list(shape) for key, shape in zip(("min", "opt", "max"), three, strict=True)} for three in shapes
            ],
            "layer_types": self._layer_types(),
            "gemm_types": self._layer_types("gemm", "matrix"),
        }

    def zeros(self, shape: "list[int]") -> "dict[str, tuple[list[int], bytes]]":
        """A request of this shape; zero is a token id of every vocabulary."""
        count = shape[0] * shape[1]
        return {name: (shape, bytes(count * SIZES[self._dtype(name)])) for name in self._inputs}

    def ask(
        self, profile: int, tensors: "dict[str, tuple[list[int], bytes]]"
    ) -> "dict[str, tuple[list[int], str, bytes]]":
        """Answer one request: name -> shape, type and bytes of each output.

        Raises:
            RefusalError: the engine fails.
        """
        context, cuda = self._context, self._cuda
        held: list[int] = []
        try:
            if not context.set_optimization_profile_async(profile, cuda.stream):
                raise self._failed(f"profile {profile} can't be chosen")
            for name in self._inputs:
                shape, data = tensors[name]
                held.append(cuda.allocate(len(data)))
                cuda.upload(held[-1], data)
                if not (context.set_input_shape(name, tuple(shape)) and context.set_tensor_address(name, held[-1])):
                    raise self._failed(f"it refuses {name} of shape {shape} in profile {profile}")
            places = {}
            for name in self._outputs:
                shape = list(context.get_tensor_shape(name))
                size = SIZES[self._dtype(name)]
                for dim in shape:
                    size *= dim
                held.append(cuda.allocate(size))
                places[name] = (shape, held[-1], size)
                context.set_tensor_address(name, held[-1])
            if not context.execute_async_v3(cuda.stream):
                raise self._failed(f"it doesn't run in profile {profile}")
            cuda.wait()
            return {
                name: (shape, self._dtype(name), cuda.download(address, size))
                for name, (shape, address, size) in places.items()
            }
        finally:
            for address in held:
                # After an error of the device every call fails; the first one says why.
                with contextlib.suppress(RefusalError):
                    cuda.free(address)

    def _failed(self, what: str) -> RefusalError:
        return RefusalError("EngineFails", f"The engine was built, but {what}: {self._logger.told()}", code=INTERNAL)

    def _dtype(self, name: str) -> str:
        return _dtype(self._engine.get_tensor_dtype(name))

    def _tensor(self, name: str) -> "dict[str, Any]":
        return {"name": name, "dtype": self._dtype(name), "dims": list(self._engine.get_tensor_shape(name))[1:]}

    def _layer_types(self, *kinds: str) -> "dict[str, int]":
        """How many of the engine's layers take or make each type, as its inspector names them.

        Args:
            kinds: words of a layer's kind, in small letters; of the layers that have one only what they take counts.
        """
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        found: dict[str, int] = {}
        for layer in json.loads(text).get("Layers", []):
            # An engine that was built without details has names only.
            held = layer if isinstance(layer, dict) else {}
            if kinds and not any(kind in str(held.get("LayerType", "")).lower() for kind in kinds):
                continue
            tensors = (*held.get("Inputs", []), *(() if kinds else held.get("Outputs", [])))
            for name in {_plain_type(str(one.get("Format/Datatype", ""))) for one in tensors}:
                found[name] = found.get(name, 0) + 1
        return found


def _plain_type(text: str) -> str:
    """Triton's name of the type in the inspector's text, e.g. `Row major linear FP16 format`, `Half` or `BFloat16`."""
    return next((name for key, name in _IN_WORDS.items() if key.lower() in text.lower()), text or "unknown")


_IN_WORDS: Final = {
    "BF16": "BF16",
    "BFloat16": "BF16",
    "FP16": "FP16",
    "Half": "FP16",
    "FP32": "FP32",
    "Float": "FP32",
    "Int8": "INT8",
    "Int64": "INT64",
    "Int32": "INT32",
    "Bool": "BOOL",
}
"""Words of the inspector -> Triton's name; `BFloat16` is looked for before `Float`."""


def _tensors(work: Path, listed: "dict[str, dict[str, Any]]") -> "dict[str, tuple[list[int], bytes]]":
    return {name: (one["shape"], (work / one["file"]).read_bytes()) for name, one in listed.items()}


def _kept(work: Path, number: int, answered: "dict[str, tuple[list[int], str, bytes]]") -> "dict[str, Any]":
    """Write the tensors of one answer beside the requests."""
    kept = {}
    for name, (shape, dtype, data) in answered.items():
        file = f"requests/{number}-answer-{name}.bin"
        (work / file).write_bytes(data)
        kept[name] = {"file": file, "shape": shape, "dtype": dtype}
    return kept


def _stop_at_sigterm() -> None:
    """Exit at once when the pod is stopped: as PID 1 a process that doesn't ask for SIGTERM never gets it.

    A thread waits for it: a handler would only run between two lines of Python, and TensorRT compiles for minutes in
    one. Nothing is lost by exiting: the next try starts anew.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_at_sigterm, daemon=True).start()


def _exit_at_sigterm() -> None:
    signal.sigwait({signal.SIGTERM})
    stopped = RefusalError("BuildStopped", "The compilation was stopped (SIGTERM).", "It is tried again.", PASSING)
    os._exit(_refuse(stopped))


if __name__ == "__main__":
    _stop_at_sigterm()
    sys.exit(main(sys.argv[1:]))
