"""A model folder on a claim: what is found, what is refused, and that nothing large is copied."""

import json
import os
from pathlib import Path

import pytest

from bert_build import fetch, files, formats, pvc
from bert_build.failures import BuildError
from bert_build.state import State
from bert_build.store import Store
from bert_operator.api.report import BuildRequest, ExitCode
from unit.bert_build import building


@pytest.fixture(autouse=True)
def _versions(monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch is only in the build image.
    monkeypatch.setattr(formats, "toolchain", lambda _: {"torch": "2.6.0", "exporter": "onnx-1"})


def run(tmp_path: Path, wish: BuildRequest) -> State:
    return fetch.run(building.job(tmp_path, wish), State(request_key="k1"))


def refused(tmp_path: Path, wish: BuildRequest) -> BuildError:
    with pytest.raises(BuildError) as caught:
        run(tmp_path, wish)
    assert caught.value.message
    assert caught.value.next_step
    return caught.value


def test_model_in_a_folder_is_named_by_its_content_and_its_weights_stay_where_they_are(tmp_path: Path) -> None:
    folder = building.model_folder(tmp_path / "source" / "team" / "bert")
    state = run(tmp_path, building.request(pvc="team/bert"))
    assert state.revision == f"sha256:{state.weights_digest}"
    assert {name: file.kind for name, file in state.files.items()} == {
        "config.json": "config", "vocab.txt": "tokenizer", "model.safetensors": "weights",
    }  # fmt: skip
    link = tmp_path / "work" / "source" / "model.safetensors"
    assert link.is_symlink()
    assert link.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not (tmp_path / "work" / "source" / "config.json").is_symlink()


def test_same_files_elsewhere_are_the_same_artifact_and_other_weights_are_not(tmp_path: Path) -> None:
    building.model_folder(tmp_path / "source")
    first = run(tmp_path, building.request())
    building.model_folder(tmp_path / "source" / "copy")
    second = run(tmp_path, building.request(pvc="copy"))
    assert first.artifact_key == second.artifact_key
    weights = tmp_path / "source" / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert run(tmp_path, building.request(pvc="copy")).artifact_key != first.artifact_key


def test_every_part_of_the_recipe_makes_another_artifact(tmp_path: Path) -> None:
    building.model_folder(tmp_path / "source")
    wishes = [
        building.request(),
        building.request(maxSequenceLength=32),
        building.request(sequenceBuckets=[8]),
        building.request(task="sequence-classification"),
        building.request(fidelity={"minCosine": "0.9"}),
    ]
    keys = {run(tmp_path, wish).artifact_key for wish in wishes}
    assert len(keys) == len(wishes)
    assert run(tmp_path, building.request(format="onnx", allowPickle=True)).artifact_key in keys


def test_published_artifact_is_found_at_once_and_no_weights_are_linked(tmp_path: Path) -> None:
    building.model_folder(tmp_path / "source")
    key = run(tmp_path, building.request()).artifact_key
    Store(tmp_path / "store").publish(tmp_path / "s", building.staged(tmp_path / "s", key=key), "me")
    state = run(tmp_path, building.request())
    assert state.reused
    assert not (tmp_path / "work" / "source" / "model.safetensors").is_symlink()


def test_sharded_weights_are_all_taken(tmp_path: Path) -> None:
    folder = building.model_folder(tmp_path / "source")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"x": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00001.safetensors" in run(tmp_path, building.request()).files


def test_wrong_path_tells_which_folders_exist(tmp_path: Path) -> None:
    building.model_folder(tmp_path / "source" / "team" / "bert")
    error = refused(tmp_path, building.request(pvc="team/bart"))
    assert (error.reason, error.code) == ("SourceNotFound", ExitCode.USER_ERROR)
    assert "'team' has no 'bart'; it holds bert/" in error.message
    assert "found: team/bert" in error.next_step


def test_empty_claim_is_named(tmp_path: Path) -> None:
    (tmp_path / "source" / "lost+found").mkdir(parents=True)
    assert refused(tmp_path, building.request(pvc="bert")).reason == "SourceEmpty"


def test_path_to_a_file_or_to_a_folder_without_model_is_named(tmp_path: Path) -> None:
    building.model_folder(tmp_path / "source" / "bert")
    assert "is a file, not a folder" in refused(tmp_path, building.request(pvc="bert/config.json")).message
    error = refused(tmp_path, building.request())
    assert "holds no config.json; it holds bert/" in error.message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_link_out_of_the_claim_is_refused(tmp_path: Path, name: str) -> None:
    folder = building.model_folder(tmp_path / "source" / "bert")
    (tmp_path / "secret").write_text("{}")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "secret")
    assert refused(tmp_path, building.request(pvc="bert")).reason == "SourceUnsafe"


def test_folder_that_is_a_link_out_of_the_claim_is_refused(tmp_path: Path) -> None:
    building.model_folder(tmp_path / "elsewhere")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "bert").symlink_to("../elsewhere")
    assert refused(tmp_path, building.request(pvc="bert")).reason == "SourceUnsafe"


def test_links_inside_the_claim_are_followed_as_in_a_hub_cache(tmp_path: Path) -> None:
    blobs = building.model_folder(tmp_path / "source" / "blobs")
    snapshot = tmp_path / "source" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    state = run(tmp_path, building.request(pvc="snapshots/abc"))
    assert state.files["model.safetensors"].outside == str(blobs / "model.safetensors")


@pytest.mark.parametrize("shard", ["../../etc/passwd.safetensors", "/etc/x.safetensors", ".x.safetensors", "x.bin", 7])
def test_index_may_only_name_files_beside_itself(tmp_path: Path, shard: object) -> None:
    folder = building.model_folder(tmp_path / "source")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": shard}}))
    assert refused(tmp_path, building.request()).reason == "SourceUnsafe"


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    folder = building.model_folder(tmp_path / "source")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(building.NESTED)
    error = refused(tmp_path, building.request())
    assert (error.reason, error.code) == ("SourceCorrupt", ExitCode.USER_ERROR)


def test_pickle_needs_a_word_from_the_user(tmp_path: Path) -> None:
    folder = building.model_folder(tmp_path / "source")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(tmp_path, building.request())
    assert error.reason == "PickleRefused"
    assert "allowPickle: true" in error.next_step
    assert "pytorch_model.bin" in run(tmp_path, building.request(allowPickle=True)).files


def test_missing_weights_come_with_a_hint(tmp_path: Path) -> None:
    folder = building.model_folder(tmp_path / "source")
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    error = refused(tmp_path, building.request())
    assert error.reason == "WeightsMissing"
    assert "tf_model.h5 can't be read" in error.next_step


def test_special_files_are_refused_without_reading_them(tmp_path: Path) -> None:
    folder = building.model_folder(tmp_path / "source")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert refused(tmp_path, building.request()).reason == "SourceUnsafe"


def test_weights_changed_during_the_build_are_noticed(tmp_path: Path) -> None:
    folder = building.model_folder(tmp_path / "source")
    state = run(tmp_path, building.request())
    pvc.unchanged(state)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1] + b"\1")
    with pytest.raises(BuildError, match=r"model\.safetensors on the source claim was changed") as caught:
        pvc.unchanged(state)
    assert caught.value.code is ExitCode.PASSING


def test_weights_that_lay_there_long_are_read_once_more_only_if_they_were_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing takes longer than converting; a file's times tell, unless two writes may share them."""
    weights = building.model_folder(tmp_path / "source") / "model.safetensors"
    assert run(tmp_path, building.request()).files[weights.name].stamp == ""
    monkeypatch.setattr(pvc, "_SETTLED_SECONDS", -1.0)
    state = run(tmp_path, building.request())
    asked: list[Path] = []
    whole = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: asked.append(path) or whole(path))
    pvc.unchanged(state)
    assert asked == []
    weights.touch()
    pvc.unchanged(state)
    assert asked == [weights]
    content = weights.read_bytes()
    before = weights.stat()
    weights.write_bytes(content[:-1] + b"\1")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # as tar and rsync do
    with pytest.raises(BuildError, match="was changed"):
        pvc.unchanged(state)


def test_what_fails_because_weights_were_changed_says_so(tmp_path: Path) -> None:
    weights = building.model_folder(tmp_path / "source") / "model.safetensors"
    state = run(tmp_path, building.request())
    with pytest.raises(ValueError, match="unreadable"), pvc.watched(state):
        raise ValueError("unreadable")
    weights.write_bytes(b"half")
    with pytest.raises(BuildError, match="was changed"), pvc.watched(state):
        raise ValueError("unreadable")
