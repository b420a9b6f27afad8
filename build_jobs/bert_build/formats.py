"""The formats that can be built. A new one is one module and one line here. Used by fetch, convert and compare."""

import dataclasses
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import Final, Protocol

from bert_build.failures import BuildError
from bert_operator.api.report import ExitCode
from bert_operator.api.spec import Build, Format, Framework, Precision


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one format is built."""

    name: str
    module: str
    """Holds `convert(job)`, which fills the job's artifact folder."""
    exporter: str
    """Raised by hand whenever our own code would write another artifact from the same source."""
    packages: tuple[str, ...]
    """Whose versions decide what comes out; part of the artifact key."""
    prepare: str = ""
    """Module that holds `prepare(job, model)`, called by `answer` while it has the source model in memory."""
    session: str = ""
    """Module that holds `open_session(folder) -> Session`, if it is another: to compare takes less than to convert."""
    texts: bool = False
    """Whether the artifact holds its tokenizer: then its server is asked texts as well."""
    copies: float = 1.6
    """How often the weights are in memory at the worst moment of its build. Measured with BERT-large (PyTorch, 2.4 GiB
    in all) and BERT-base (TensorFlow), rounded up."""


OPSET: Final = 17
"""Of ONNX: the newest with LayerNormalization that every supported ONNX Runtime and TensorRT release reads."""

ENGINE: Final = Recipe("tensorrt", "bert_build.engine", "3", ("onnx", "onnxruntime"))

RECIPES: Final = {
    (Framework.PYTORCH, Format.ONNX): Recipe(
        "onnx",
        "bert_build.to_onnx",
        "6",
        ("torch", "transformers", "onnx"),
        prepare="bert_build.trace_onnx",
        session="bert_build.onnx_session",
    ),
    (Framework.PYTORCH, Format.MAR): Recipe(
        "mar", "bert_build.to_mar", "5", ("torch", "transformers", "tokenizers", "torch-model-archiver"), texts=True
    ),
    (Framework.PYTORCH, Format.TORCHSCRIPT): Recipe(
        "torchscript", "bert_build.to_torchscript", "2", ("torch", "transformers")
    ),
    (Framework.PYTORCH, Format.SAVEDMODEL): Recipe(
        "savedmodel", "bert_build.to_savedmodel", "3", ("tensorflow-cpu",), copies=2.3
    ),
    (Framework.TENSORFLOW, Format.SAVEDMODEL): Recipe(
        "savedmodel", "bert_build.tf2_to_savedmodel", "tf2-3", ("tensorflow-cpu",)
    ),
    (Framework.TENSORFLOW, Format.ONNX): Recipe(
        "onnx",
        "bert_build.tf2_to_onnx",
        "tf2-4",
        ("tensorflow-cpu", "tf2onnx", "onnx"),
        session="bert_build.onnx_session",
        copies=3.0,
    ),
    # From the ONNX artifact, whatever that came from: a Job of its own, without `convert`.
    (Framework.PYTORCH, Format.TENSORRT): ENGINE,
    (Framework.TENSORFLOW, Format.TENSORRT): ENGINE,
}
"""By what the source is written in and what is built."""

QUANTISER: Final = "int8-2"
"""Raised by hand whenever int8.py would write another graph."""

SOURCES: Final = {
    Framework.PYTORCH: "bert_build.source_model",
    Framework.TENSORFLOW: "bert_build.tensorflow_source",
}
"""What a source is written in -> module that holds `load(folder, task)`, which returns a model that can be asked."""


class Versions(Protocol):
    """Looks up the version of an installed package."""

    def __call__(self, package: str, /) -> str:
        """The version, as the package tells it."""


def recipe(build: Build) -> Recipe:
    """The recipe for what was asked.

    Raises:
        BuildError: there is none; the operator should have refused the spec.
    """
    found = RECIPES.get((build.framework, build.format))
    if found is None:
        raise BuildError(
            "Unsupported",
            f"build.format {build.format.value} can't be made from a {build.framework.value} source.",
            f"Formats of a {build.framework.value} source: "
            f"{', '.join(made.value for source, made in RECIPES if source is build.framework) or 'none'}.",
        )
    return _quantised(found) if build.precision is Precision.INT8 and build.format is Format.ONNX else found


def _quantised(found: Recipe) -> Recipe:
    """The same with a quantised graph in the end. ONNX Runtime says what the ranges of activations are."""
    return dataclasses.replace(
        found,
        exporter=f"{found.exporter}-{QUANTISER}",
        packages=(*found.packages, "onnxruntime"),
        copies=found.copies + 2,
    )


def version(package: str) -> str:
    """Version of an installed package, without importing it: PyTorch alone takes seconds.

    Raises:
        BuildError: it isn't installed.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
    # Distributions may ship a package without metadata.
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / "version.py"
        found = (
            re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", file.read_text(), re.MULTILINE) if file.is_file() else None
        )
        if found:
            return found[1]
    raise BuildError(
        "InternalError",
        f"The build image holds no package {package}",
        "Use the release's build image (settings images.build) or add the package to yours.",
        ExitCode.INTERNAL,
    )


def toolchain(wanted: Recipe, versions: Versions = version) -> dict[str, str]:
    """What decides, beside the source and the recipe, which bytes come out."""
    found = {package: versions(package) for package in wanted.packages}
    return {**found, "exporter": f"{wanted.name}-{wanted.exporter}"}
