"""Everything that the script of a compile Job asks of TensorRT is there, in the real libraries of 10 and 11.

No GPU is needed: names and signatures are looked up, nothing is compiled.
"""

import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bert_build.handlers.tensorrt import compile_engine

VERSIONS = ("10", "11")
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "layer": "ILayer",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "_runtime": "Runtime",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "inspector": "EngineInspector",
}
"""Variable of the script -> class of TensorRT that it holds."""
OURS = {"append", "pop", "get", "items"}
"""Of plain Python values that bear such a name too."""


def _name(node: ast.expr) -> str:
    """The variable that an expression is, `self.` left out."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return _name(node)


def asked() -> list[str]:
    """What the script uses, as `Class.member` or `Enum.VALUE`, read from its text."""
    tree = ast.parse(Path(compile_engine.__file__).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        holder = CLASSES.get(_name(node.value))
        if holder and node.attr not in OURS:
            found.add(f"{holder}.{node.attr}")
        dotted = _dotted(node)
        for prefix in ("trt.", "_trt."):
            if dotted.startswith(prefix):
                found.add(dotted.removeprefix(prefix))
    return sorted(found)


def run(libraries: Path, version: str, program: str) -> Any:
    """Run a program in a process that imports this TensorRT as `tensorrt`; returns the JSON that it prints last."""
    folder = libraries / version
    head = "import sys, json, tensorrt_bindings as trt; sys.modules['tensorrt'] = trt\n"
    env = {"PYTHONPATH": f"{folder}:{':'.join(sys.path)}", "LD_LIBRARY_PATH": str(folder / "lib"), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program)], env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_list_of_what_is_asked_is_no_empty_one() -> None:
    found = asked()
    for member in ("Builder.build_serialized_network", "IBuilderConfig.set_timing_cache", "BuilderFlag.TF32"):
        assert member in found
    assert len(found) > 40


def test_no_precision_flag_is_asked_for() -> None:
    assert [name for name in asked() if name.startswith("BuilderFlag.")] == ["BuilderFlag.TF32"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_library_is_the_release_it_should_be(libraries: Path, version: str) -> None:
    assert run(libraries, version, "print(json.dumps(trt.__version__))").partition(".")[0] == version


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_the_script_asks_for_is_there(libraries: Path, version: str) -> None:
    program = f"""
        def there(dotted):
            holder = trt
            for part in dotted.split("."):
                if not hasattr(holder, part):
                    return False
                holder = getattr(holder, part)
            return True
        print(json.dumps([name for name in {asked()!r} if not there(name)]))
    """
    # An enum's value has a name; a logger of one's own has only what it defines.
    missing = [name for name in run(libraries, version, program) if not name.endswith(".told")]
    assert missing == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("Builder.create_network", "flags: "),
        ("Builder.build_serialized_network", "network: "),
        ("IBuilderConfig.set_memory_pool_limit", "pool_size: "),
        ("IBuilderConfig.set_timing_cache", "ignore_mismatch: "),
        ("IBuilderConfig.create_timing_cache", "serialized_timing_cache: "),
        ("IOptimizationProfile.set_shape", "input: "),
        ("ICudaEngine.get_tensor_profile_shape", "profile_index: "),
        ("IExecutionContext.set_optimization_profile_async", "stream_handle: "),
        ("IExecutionContext.set_tensor_address", "memory: "),
        ("IExecutionContext.execute_async_v3", "stream_handle: "),
        ("OnnxParser.parse_from_file", "-> bool"),
        ("INetworkDefinition.get_flag", "-> bool"),
    ],
)
def test_signatures_are_as_they_are_called(libraries: Path, version: str, function: str, arguments: str) -> None:
    holder, name = function.split(".")
    text = run(libraries, version, f"print(json.dumps(trt.{holder}.{name}.__doc__))")
    assert any(arguments in line for line in text.splitlines() if f"{name}(" in line)


@pytest.mark.parametrize("version", VERSIONS)
def test_types_have_the_names_that_the_script_translates(libraries: Path, version: str) -> None:
    found = run(libraries, version, "print(json.dumps([t.name for t in trt.DataType.__members__.values()]))")
    assert set(compile_engine.DTYPES) <= set(found)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_strongly_typed_flag_makes_a_number(libraries: Path, version: str) -> None:
    assert run(libraries, version, "print(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))") >= 1


def test_tensorrt_11_has_no_precision_flags_so_a_guard_around_them_would_build_fp32(libraries: Path) -> None:
    program = "print(json.dumps([hasattr(trt.BuilderFlag, name) for name in ('FP16', 'BF16', 'INT8')]))"
    assert run(libraries, "11", program) == [False, False, False]
    assert run(libraries, "10", program) == [True, True, True]


@pytest.mark.parametrize("version", VERSIONS)
def test_our_logger_and_monitor_are_taken_by_the_real_classes(libraries: Path, version: str) -> None:
    program = """
        from bert_build.handlers.tensorrt import compile_engine as script
        logger, monitor = script._make_logger(trt), script._make_monitor(trt)
        logger.log(trt.ILogger.Severity.ERROR, "no room")
        monitor.phase_start("Building", None, 3)
        assert monitor.step_complete("Building", 0) is True
        monitor.phase_finish("Building")
        print(json.dumps([isinstance(logger, trt.ILogger), isinstance(monitor, trt.IProgressMonitor), logger.told()]))
    """
    assert run(libraries, version, program) == [True, True, "no room"]


@pytest.mark.parametrize("version", VERSIONS)
def test_where_cuda_cant_be_initialised_it_says_so_in_a_line(libraries: Path, version: str) -> None:
    program = """
        from bert_build.handlers.tensorrt import compile_engine as script
        try:
            script._make_builder(trt, script._make_logger(trt))
        except script.RefusalError as error:
            print(json.dumps([error.reason, error.message, error.next_step]))
    """
    reason, message, next_step = run(libraries, version, program)
    assert reason == "CudaUnavailable"
    assert "CUDA initialization failure" in message
    assert "container toolkit" in next_step


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_driver_the_step_ends_with_a_readable_message(libraries: Path, version: str, tmp_path: Path) -> None:
    (tmp_path / "compile.json").write_text("{}")
    program = f"""
        import os
        from pathlib import Path
        os.environ["BERTOPS_TERMINATION_LOG"] = {str(tmp_path / "log")!r}
        from bert_build.handlers.tensorrt import compile_engine as script
        print(json.dumps(script.main(["compile"], Path({str(tmp_path)!r}))))
    """
    assert run(libraries, version, program) == 65
    told = json.loads((tmp_path / "log").read_text())
    assert told["reason"] == "CudaUnavailable"
    assert "libcuda.so.1" in told["message"]
