"""What `publish` believes: nothing that a step which ran a model could have written over.

The steps share a scratch folder, and some of them run or unpickle what users bring.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bert_build import formats, inspect_model, job, sealed, state, store
from bert_build.failures import BuildError
from bert_operator.api import names
from bert_operator.api.report import BuildReport, ExitCode, FidelityFigures, Manifest
from unit.bert_build import building

KEY, OTHER = "ab" * 16, "cd" * 16
FIGURES = FidelityFigures(samples=1, max_abs_difference=0, min_cosine=1, limit_max_abs_difference=1, limit_min_cosine=0)


class Pod:
    """The folders of a build pod after `compare`, and its last container."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.job = building.job(folder, building.request())
        self.termination = folder / "termination-log"
        monkeypatch.setenv("BERTOPS_TERMINATION_LOG", str(self.termination))
        monkeypatch.setenv(names.BUILD_REQUEST_ENV, self.job.request.model_dump_json(by_alias=True, exclude_none=True))
        building.staged(self.job.artifact)
        self.named = state.State(
            request_key="k1", revision="main", weights_digest="cd" * 32, artifact_key=KEY, toolchain={"torch": "2"}
        )
        sealed.seal(self.named, self.job.sealed)
        self.leave()

    def leave(self, **changes: Any) -> None:
        """What the steps after the first left."""
        figures = {"fidelity": FIGURES, "durations": {"convert": 2.5}, "peak_memory_bytes": 7}
        self.named.model_copy(update=figures | changes).save(self.job.work)

    def publish(self) -> int:
        here = self.job
        return job.run("publish", here.work, here.source, here.store, here.sealed)

    @property
    def said(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.termination.read_text())
        return found

    def published(self) -> list[str]:
        folder = self.job.store / "artifacts"
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    return Pod(tmp_path, monkeypatch)


def test_an_untouched_build_is_published_with_where_it_comes_from(pod: Pod) -> None:
    assert pod.publish() == ExitCode.OK
    report = BuildReport.model_validate(pod.said)
    assert (report.artifact_key, report.revision, report.weights_digest) == (KEY, "main", "cd" * 32)
    assert pod.published() == [f"onnx-{KEY}"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"artifact_key": OTHER}, "artifact_key"),
        ({"artifact_key": "../../../outside"}, "artifact_key"),
        ({"weights_digest": "ef" * 32}, "weights_digest"),
        ({"revision": "v2"}, "revision"),
        ({"toolchain": {"torch": "3"}}, "toolchain"),
        ({"reused": True}, "reused"),
        ({"texts": {"samples": "12" * 32}}, "texts"),
    ],
)
def test_a_step_that_renames_the_build_publishes_nothing(pod: Pod, changes: dict[str, Any], field: str) -> None:
    """Else a model could publish itself under the key of another one, which everybody on the claim would reuse."""
    pod.leave(**changes)
    assert pod.publish() == ExitCode.USER_ERROR
    assert pod.said["reason"] == "ScratchTampered"
    assert field in pod.said["message"]
    assert "source" in pod.said["nextStep"]
    assert pod.published() == []


def test_without_the_seal_nothing_is_published(pod: Pod) -> None:
    (pod.job.sealed / sealed.FILE).unlink()
    assert pod.publish() == ExitCode.INTERNAL
    assert pod.published() == []


def outside(pod: Pod) -> Path:
    secret = pod.job.work / "secret"
    secret.write_text("not a model")
    return secret


def link(pod: Pod) -> None:
    (pod.job.artifact / "notes.txt").symlink_to(outside(pod))


def linked_folder(pod: Pod) -> None:
    (pod.job.work / "elsewhere").mkdir()
    (pod.job.work / "elsewhere" / "file").write_text("x")
    (pod.job.artifact / "variables").symlink_to(pod.job.work / "elsewhere")


def hard_link(pod: Pod) -> None:
    os.link(outside(pod), pod.job.artifact / "notes.txt")


def pipe(pod: Pod) -> None:
    os.mkfifo(pod.job.artifact / "notes.txt")


def linked_root(pod: Pod) -> None:
    pod.job.artifact.rename(pod.job.work / "moved")
    pod.job.artifact.symlink_to(pod.job.work / "moved")


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (link, "notes.txt is a link"),
        (linked_folder, "variables is a link"),
        (hard_link, "notes.txt has another name"),
        (pipe, "notes.txt is no regular file"),
        (linked_root, "artifact is a link"),
    ],
)
def test_only_plain_files_of_the_artifact_folder_are_published(
    pod: Pod, plant: Callable[[Pod], None], what: str
) -> None:
    plant(pod)
    assert pod.publish() == ExitCode.USER_ERROR
    assert pod.said["reason"] == "ArtifactUnsafe"
    assert what in pod.said["message"]
    assert pod.published() == []


def test_a_file_of_the_stores_own_name_is_refused(pod: Pod) -> None:
    (pod.job.artifact / names.MANIFEST_FILE).write_text("{}")
    assert pod.publish() == ExitCode.USER_ERROR
    assert "manifest.json" in pod.said["message"]
    assert pod.published() == []


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/../../b", "", "manifest.json"])
def test_the_store_takes_no_path_that_leaves_the_artifact(tmp_path: Path, name: str) -> None:
    manifest = building.staged(tmp_path / "scratch")
    manifest = manifest.model_copy(update={"files": {name: manifest.files["model.onnx"]}})
    (tmp_path / "model.onnx").write_bytes(b"onnx" * 5000)
    with pytest.raises(BuildError, match="can't be the name of a file of an artifact"):
        store.Store(tmp_path / "claim").publish(tmp_path / "scratch", manifest, "me")
    assert not list((tmp_path / "claim").rglob("onnx-*"))


@pytest.mark.parametrize(("name", "key"), [("onnx", "../x"), ("../onnx", KEY), ("onnx", KEY.upper()), ("onnx", "")])
def test_the_store_takes_no_key_that_is_none(tmp_path: Path, name: str, key: str) -> None:
    with pytest.raises(BuildError, match="names no artifact"):
        store.Store(tmp_path).path(name, key)


def test_a_linked_store_folder_is_refused(pod: Pod) -> None:
    """Whoever may write to the claim's root must not lead a publication elsewhere."""
    (pod.job.work / "theirs").mkdir()
    (pod.job.store / "artifacts").symlink_to(pod.job.work / "theirs")
    assert pod.publish() == ExitCode.USER_ERROR
    assert pod.said["reason"] == "StoreUnsafe"
    assert list((pod.job.work / "theirs").iterdir()) == []


def test_the_manifest_says_what_the_artifact_was_made_of_and_by_what(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = json.loads(building.request(repo="team/model").model_dump_json(by_alias=True, exclude_none=True))
    asked["images"] = ["registry.example/build:1"]
    asked["huggingFace"]["tokenSecretRef"] = {"name": "who-may-read", "key": "token"}
    monkeypatch.setenv(names.BUILD_REQUEST_ENV, json.dumps(asked))
    read = {"config.json": state.SourceFile(kind="config", size=1, sha256="12" * 32)}
    pod.named = pod.named.model_copy(update={"files": read})
    sealed.seal(pod.named, pod.job.sealed)
    pod.leave()
    assert pod.publish() == ExitCode.OK
    path = pod.job.store / "artifacts" / f"onnx-{KEY}" / names.MANIFEST_FILE
    manifest = Manifest.model_validate_json(path.read_bytes())
    assert manifest.provenance is not None
    told = manifest.provenance
    assert told.source == {"huggingFace": {"repo": "team/model", "revision": "main"}}
    assert told.source_files == {"config.json": "12" * 32}
    assert told.images == ["registry.example/build:1"]
    assert told.recipe["maxSequenceLength"] == 16
    assert told.recipe["format"] == "onnx"
    report = manifest.report
    assert report.toolchain == {"torch": "2"}
    assert (report.durations_seconds, report.peak_memory_bytes) == ({"convert": 2.5}, 7)
    assert {name: len(file.sha256) for name, file in manifest.files.items()} == {"golden.npz": 64, "model.onnx": 64}
    assert formats.recipe(pod.job.request.build).name == report.format


def test_what_a_read_only_claim_does_not_hold_is_refused_before_anything_is_converted(tmp_path: Path) -> None:
    wish = building.request().model_copy(update={"store_read_only": True})
    with pytest.raises(BuildError, match="serves what is in it already") as refused:
        inspect_model.run(building.job(tmp_path, wish), state.State(request_key="k1"))
    assert refused.value.reason == "StoreReadOnly"
