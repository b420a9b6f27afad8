import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bert_build import preflight
from bert_operator.api import names
from bert_operator.api.report import BuildFailure, Manifest, ManifestFile, ServedModel, ServedModels
from support import builders

ARTIFACT = f"onnx-{'5' * 32}-12345678"


class Pod:
    """A serving pod's mount and environment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mount = folder / "models/minilm/1"
        self.mount.mkdir(parents=True)
        self.log = folder / "termination-log"
        self.expected = ""
        self.settings: dict[str, str] = {}
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("BERTOPS_TERMINATION_LOG", str(self.log))

    def publish(self, **report: str) -> None:
        contents = {names.ONNX_FILE: b"weights" * 1000, names.GOLDEN_FILE: b"requests"}
        for name, content in contents.items():
            (self.mount / name).write_bytes(content)
        files = {
            name: ManifestFile(size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in contents.items()
        }
        self.write_manifest(
            Manifest(schema_version=1, report=builders.report(manifest_sha256="", **report), files=files)
        )

    def write_manifest(self, manifest: Manifest) -> None:
        text = manifest.model_dump_json(by_alias=True)
        (self.mount / names.MANIFEST_FILE).write_text(text, encoding="utf-8")
        self.expected = hashlib.sha256(text.encode()).hexdigest()

    def run(self) -> int:
        model = ServedModel(
            name="minilm",
            version=1,
            path=str(self.mount),
            artifact=ARTIFACT,
            manifest_sha256=self.expected or "0" * 64,
            max_batch_size=8,
        )
        served = ServedModels(server="triton", owner="team/search", models=[model], **self.settings)
        self._monkeypatch.setenv(names.SERVED_ENV, served.model_dump_json(by_alias=True))
        return preflight.main([])

    def failure(self) -> BuildFailure:
        assert self.run() == 1
        return BuildFailure.model_validate_json(self.log.read_text())


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    return Pod(tmp_path, monkeypatch)


def test_a_whole_artifact_passes_with_a_line_of_its_own(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    pod.publish()

    assert pod.run() == 0

    assert f"model minilm version 1 (artifact {ARTIFACT}): intact" in capsys.readouterr().out
    assert not pod.log.exists()


def test_an_empty_mount_is_named_with_its_place_on_the_claim(pod: Pod) -> None:
    found = pod.failure()

    assert found.reason == "ArtifactMissing"
    assert f"artifacts/onnx-{'5' * 32} " in found.message
    assert str(pod.mount) in found.message
    assert "the folder is empty" in found.message
    assert "kubectl annotate bertd/search -n team bertops.dev/refresh=$(date +%s) --overwrite" in found.next_step


def test_a_half_copied_artifact_is_missing_and_shows_what_is_there(pod: Pod) -> None:
    pod.publish()
    (pod.mount / names.MANIFEST_FILE).unlink()

    assert "there is only golden.npz, model.onnx" in pod.failure().message


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"!")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(bytes(content))


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def accompany(path: Path) -> None:
    (path.parent / "variables").mkdir()
    (path.parent / "variables" / "saved_model.cpb").write_bytes(b"a server might prefer it")


@pytest.mark.parametrize(
    ("name", "tamper", "words"),
    [
        (names.ONNX_FILE, grow, ["7000 bytes", "7001 bytes"]),
        (names.ONNX_FILE, flip, ["published with sha256", "found sha256"]),
        (names.ONNX_FILE, Path.unlink, ["7000 bytes", "No such file"]),
        (names.ONNX_FILE, link, ["7000 bytes", "found a link"]),
        (names.GOLDEN_FILE, flip, ["published with sha256"]),
        (names.MANIFEST_FILE, grow, ["published with sha256", "found sha256"]),
    ],
)
def test_a_changed_file_is_named_with_what_was_expected_and_found(
    pod: Pod, name: str, tamper: Callable[[Path], None], words: list[str]
) -> None:
    pod.publish()
    tamper(pod.mount / name)

    found = pod.failure()

    assert found.reason == "ArtifactCorrupt"
    assert f"artifacts/onnx-{'5' * 32}/{name}" in found.message
    assert all(word in found.message for word in words)
    assert f"delete the BertArtifact {ARTIFACT}" in found.next_step


def test_a_file_that_was_not_published_is_refused(pod: Pod) -> None:
    pod.publish()
    (pod.mount / ".nfs0001").touch()  # left by NFS where an open file is deleted
    assert pod.run() == 0
    accompany(pod.mount / names.ONNX_FILE)
    found = pod.failure()
    assert found.reason == "ArtifactCorrupt"
    assert "variables/saved_model.cpb was published with no such file, found one" in found.message


def test_a_manifest_of_another_release_says_so(pod: Pod) -> None:
    pod.publish()
    text = json.dumps(json.loads((pod.mount / names.MANIFEST_FILE).read_text()) | {"future": 1})
    (pod.mount / names.MANIFEST_FILE).write_text(text)
    pod.expected = hashlib.sha256(text.encode()).hexdigest()

    found = pod.failure()

    assert found.reason == "ArtifactUnreadable"
    assert "another release of bert-operator" in found.message


def test_without_its_environment_it_says_what_is_missing(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(names.SERVED_ENV, raising=False)

    assert preflight.main([]) == 1

    assert names.SERVED_ENV in BuildFailure.model_validate_json(pod.log.read_text()).message


def test_it_needs_neither_torch_nor_numpy() -> None:
    program = "import sys, bert_build.preflight; print(sorted({'torch', 'numpy', 'grpc', 'onnx'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    assert done.stdout.strip() == "[]"


ENGINE = {"format": "tensorrt", "compute_capability": "8.6", "tensorrt_version": "11.2.1.2"}


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ({"compute_capability": "9.0"}, "was compiled for compute capability 8.6, this pod's is 9.0"),
        ({"tensorrt_version": "11.3.0.99"}, "was compiled for TensorRT 11.2.1.2, this pod's is 11.3.0.99"),
    ],
)
def test_a_foreign_engine_is_refused(pod: Pod, expected: dict[str, str], says: str) -> None:
    pod.publish(**ENGINE)
    pod.settings = expected
    failure = pod.failure()
    assert failure.reason == "EngineForeign"
    assert says in failure.message
    assert "bertops.dev/refresh" in failure.next_step


@pytest.mark.parametrize("expected", [{}, {"compute_capability": "8.6", "tensorrt_version": "11.2.1.2"}])
def test_an_engine_that_fits_or_of_which_nothing_is_known_passes(pod: Pod, expected: dict[str, str]) -> None:
    pod.publish(**ENGINE)
    pod.settings = expected
    assert pod.run() == 0


def test_an_artifact_that_runs_anywhere_fits_every_gpu(pod: Pod) -> None:
    pod.publish()
    pod.settings = {"compute_capability": "9.0"}
    assert pod.run() == 0
