"""A TensorFlow source on a claim: which files are taken, and which mix-ups of frameworks are named."""

from pathlib import Path
from typing import Any

import pytest

from bert_build import config_checks, fetch, formats, pvc
from bert_build.failures import BuildError
from bert_build.state import State
from bert_operator.api.report import BuildRequest
from unit.bert_build import building

TENSORFLOW = {"framework": "tensorflow"}


@pytest.fixture(autouse=True)
def _versions(monkeypatch: pytest.MonkeyPatch) -> None:
    # TensorFlow is only in its build image.
    monkeypatch.setattr(formats, "toolchain", lambda recipe: {"exporter": recipe.exporter})


def run(tmp_path: Path, wish: BuildRequest) -> State:
    return fetch.run(building.job(tmp_path, wish), State(request_key="k1"))


def refused(tmp_path: Path, wish: BuildRequest) -> BuildError:
    with pytest.raises(BuildError) as caught:
        run(tmp_path, wish)
    assert caught.value.next_step
    return caught.value


def savedmodel(folder: Path) -> Path:
    building.model_folder(folder)
    (folder / "model.safetensors").unlink()
    for name in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_savedmodel_is_taken_whole_and_linked_with_its_folders(tmp_path: Path) -> None:
    folder = savedmodel(tmp_path / "source" / "team")
    (folder / "variables" / "variables.index").chmod(0o444)
    (folder / "notes").mkdir()
    (folder / "notes" / "x.txt").write_text("not ours")
    state = run(tmp_path, building.request(pvc="team", **TENSORFLOW))
    assert {name for name, file in state.files.items() if file.kind == "weights"} == {
        "saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001",
    }  # fmt: skip
    for name, file in state.files.items():
        assert (tmp_path / "work" / "source" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "work" / "source" / name).is_symlink() == (file.kind == "weights")


def test_other_variables_are_another_artifact_and_are_noticed_during_the_build(tmp_path: Path) -> None:
    folder = savedmodel(tmp_path / "source")
    first = run(tmp_path, building.request(**TENSORFLOW))
    pvc.unchanged(first)
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"other")
    with pytest.raises(BuildError, match=r"variables\.data-00000-of-00001 on the source claim was changed"):
        pvc.unchanged(first)
    assert run(tmp_path, building.request(**TENSORFLOW)).artifact_key != first.artifact_key


def test_a_savedmodel_read_as_pytorch_names_the_field(tmp_path: Path) -> None:
    savedmodel(tmp_path / "source")
    error = refused(tmp_path, building.request())
    assert error.reason == "FrameworkMismatch"
    assert "holds saved_model.pb, a TensorFlow SavedModel, but build.framework is pytorch" in error.message
    assert error.next_step == "Set build.framework: tensorflow."


def test_a_checkpoint_read_as_tensorflow_names_the_field(tmp_path: Path) -> None:
    building.model_folder(tmp_path / "source")
    error = refused(tmp_path, building.request(**TENSORFLOW))
    assert error.reason == "FrameworkMismatch"
    assert "holds model.safetensors, a PyTorch checkpoint, but build.framework is tensorflow" in error.message
    assert "build.framework: pytorch" in error.next_step


def test_with_both_in_one_folder_the_framework_decides(tmp_path: Path) -> None:
    folder = savedmodel(tmp_path / "source")
    (folder / "model.safetensors").write_bytes(building.safetensors(building.shapes()))
    assert "saved_model.pb" in run(tmp_path, building.request(**TENSORFLOW)).files
    assert "saved_model.pb" not in run(tmp_path, building.request()).files


def test_a_savedmodel_without_variables_is_named(tmp_path: Path) -> None:
    folder = savedmodel(tmp_path / "source")
    for file in (folder / "variables").iterdir():
        file.unlink()
    error = refused(tmp_path, building.request(**TENSORFLOW))
    assert error.reason == "WeightsMissing"
    assert "without its folder variables/" in error.message


def test_no_weights_at_all_come_with_a_hint(tmp_path: Path) -> None:
    folder = building.model_folder(tmp_path / "source")
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    error = refused(tmp_path, building.request(**TENSORFLOW))
    assert "holds no saved_model.pb; it holds config.json, tf_model.h5" in error.message
    assert "tf.saved_model.save" in error.next_step


def test_a_variables_folder_that_leads_out_of_the_claim_is_refused(tmp_path: Path) -> None:
    folder = savedmodel(tmp_path / "source")
    (folder / "variables").rename(tmp_path / "elsewhere")
    (folder / "variables").symlink_to(tmp_path / "elsewhere")
    assert refused(tmp_path, building.request(**TENSORFLOW)).reason == "SourceUnsafe"


@pytest.mark.parametrize("allowed", [False, True])
def test_a_pickle_cannot_become_a_savedmodel_whatever_is_allowed(tmp_path: Path, allowed: bool) -> None:  # noqa: FBT001
    folder = building.model_folder(tmp_path / "source")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(tmp_path, building.request(format="savedmodel", allowPickle=allowed))
    assert error.reason == "PickleRefused"
    assert "pytorch_model.bin" in error.message
    assert "save_pretrained" in error.next_step


@pytest.mark.parametrize(("wish", "refuses"), [({"format": "savedmodel"}, True), ({}, False)])
def test_an_activation_is_refused_only_where_it_is_written_by_hand(wish: dict[str, Any], refuses: bool) -> None:  # noqa: FBT001
    text = b'{"model_type": "bert", "hidden_act": "silu"}'
    if not refuses:
        assert config_checks.check(text, building.build(format="onnx", **wish)).hidden_act == "silu"
        return
    with pytest.raises(BuildError, match=r"hidden_act 'silu'; build.format savedmodel knows gelu, gelu_new, relu"):
        config_checks.check(text, building.build(**wish))
