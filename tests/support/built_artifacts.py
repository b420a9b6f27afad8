"""Artifacts of tiny models, built by every step in the build image, for tests that serve them elsewhere.

`python -m support.built_artifacts FORMAT/FAMILY/TASK...` inside the image writes one tar archive to standard output;
`build` calls that from outside and unpacks it.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bert_build.golden_answers import Request, read
from bert_operator.api import artifact, names
from bert_operator.api.report import BuildReport
from bert_operator.api.spec import Task
from support.build_bench import LENGTH, Bench
from support.published import Published

_ARTIFACT = "artifact"
_SOURCE = "source"
_REPORT = "report.json"


@dataclass(frozen=True)
class Built:
    """One artifact and its source model."""

    folder: Path

    @property
    def source(self) -> Path:
        """config.json, weights and tokenizer."""
        return self.folder / _SOURCE

    @property
    def requests(self) -> list[Request]:
        """What the source model was asked, and what it answered."""
        return read(self.folder / _ARTIFACT / names.GOLDEN_FILE)

    @property
    def published(self) -> Published:
        """As the operator knows it."""
        report = BuildReport.model_validate_json((self.folder / _REPORT).read_bytes())
        path = f"{names.ARTIFACTS_FOLDER}/{report.format}-{report.artifact_key}"
        known = artifact.BertArtifactSpec(
            claim_name="store", claim_uid="uid", path=path, request_keys=["abc"], report=report
        )
        return Published(folder=self.folder / _ARTIFACT, known=known, name=f"onnx-{report.artifact_key}-12345678")


def build(target: Path, *wanted: str) -> dict[str, Built]:
    """Build artifacts in the build image; by FORMAT/FAMILY/TASK. All in one call: PyTorch's import is half of it."""
    inside = ["pytorch", "--", "python", "-m", "support.built_artifacts", *wanted]
    command = [sys.executable, "-m", "images", "run", *inside]
    written = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]).stdout
    with tarfile.open(fileobj=io.BytesIO(written)) as archive:
        archive.extractall(target, filter="data")
    return {name: Built(target / name) for name in wanted}


def main(*wanted: str) -> None:
    """Build and write the tar archive. What steps and libraries say goes to standard error."""
    with os.fdopen(os.dup(1), "wb") as output, tempfile.TemporaryDirectory() as scratch:
        os.dup2(2, 1)
        for name in wanted:
            _build(name, Path(scratch, "bench", name), Path(scratch, "out", name))
        with tarfile.open(fileobj=output, mode="w|") as archive:
            archive.add(Path(scratch, "out"), arcname=".")


def _build(name: str, scratch: Path, target: Path) -> None:
    from support import tiny_models  # noqa: PLC0415 - PyTorch, which only the image has

    kind, family, task = name.split("/")
    bench = Bench(scratch)
    os.environ["BERTOPS_TERMINATION_LOG"] = str(bench.termination)
    tiny_models.save(bench.source, family, Task(task))
    report, folder = bench.build(task=task, format=kind, maxSequenceLength=LENGTH)
    shutil.copytree(folder, target / _ARTIFACT)
    shutil.copytree(bench.source, target / _SOURCE)
    (target / _REPORT).write_text(report.model_dump_json(by_alias=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
