"""Texts of the user's from a ConfigMap or a claim: what is read, what is refused, and what it names."""

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_build import answer, config_checks, fetch, formats, probes, recorded, samples, user_texts
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.recorded import Recorded, Recording
from bert_build.samples import Sample
from bert_build.state import State
from bert_operator.api.report import ExitCode
from unit.bert_build import building

FOUR = b"one\ntwo\nthree\nfour\n"


@pytest.fixture(autouse=True)
def _versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "toolchain", lambda _: {"exporter": "onnx-1"})


def job(root: Path, *, files: dict[str, bytes], **build: Any) -> Job:
    """A Job that sees these files below its texts; `samples/a.txt` is the content of a file."""
    building.model_folder(root / "source")
    for name, content in files.items():
        path = root / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return dataclasses.replace(building.job(root, building.request(**build)), texts=root / "texts")


def from_config_map(name: str = "mine", **more: str) -> dict[str, Any]:
    return {"samplesFrom": {"configMapName": name, **more}}


def refused(told: Job) -> BuildError:
    with pytest.raises(BuildError) as caught:
        user_texts.bring(told)
    assert caught.value.next_step
    return caught.value


def test_one_text_a_line_and_a_tab_between_the_texts_of_a_pair() -> None:
    content = "\ufeffWhere is my parcel?\r\n\n  Wer?\tEs war Ada. \nकौन\n".encode()
    found = user_texts.parsed(content, user_texts.SAMPLES)
    assert found == [("Where is my parcel?", None), ("Wer?", "Es war Ada."), ("कौन", None)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds 0 texts, 1 to 64 are needed"),
        (b"fine\nWer?\t\n", "has nothing on one side of the tab in line 2"),
        (b"\tpassage\n", "has nothing on one side of the tab in line 1"),
        (b"x\n" * 65, "holds 65 texts"),
        (b"fine\na\tb\tc\n", "has 2 tabs in line 2"),
        (b"fine\n\xff\xfe\n", "is no UTF-8 text: line 2"),
        (b"x" * 20_001, "has 20001 letters in line 1"),
        (b"x" * (5 << 20), "holds 5.0 MiB"),
    ],
)
def test_what_are_no_texts_is_named_by_line(content: bytes, says: str) -> None:
    with pytest.raises(BuildError) as caught:
        user_texts.parsed(content, user_texts.SAMPLES)
    assert caught.value.reason == "TextsInvalid"
    assert f"build.fidelity.samplesFrom {says}" in caught.value.message


@pytest.mark.parametrize(("size", "says"), [(5 << 20, "holds 5.0 MiB"), ((4 << 20) + 1, "holds 4.1 MiB")])
def test_the_size_of_a_large_file_is_told(tmp_path: Path, size: int, says: str) -> None:
    told = job(tmp_path, files={"samples/texts.txt": b""}, fidelity=from_config_map())
    os.truncate(tmp_path / "texts/samples/texts.txt", size)
    assert f"build.fidelity.samplesFrom {says}, at most 4 are read" in refused(told).message


@pytest.mark.parametrize("call", ["open", "resolve"])  # a file of somebody else's, and one in such a folder
def test_what_may_not_be_read_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    files = {"samples/a/b.txt": b"text"}
    told = job(tmp_path, files=files, fidelity={"samplesFrom": {"claimName": "models", "path": "a/b.txt"}})
    real = getattr(Path, call)

    def forbidden(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "b.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, call, forbidden)
    error = refused(told)
    assert (error.reason, error.code) == ("TextsUnreadable", ExitCode.USER_ERROR)
    assert "a/b.txt of claim 'models', which build.fidelity.samplesFrom names, can't be read" in error.message
    assert "chmod -R a+rX" in error.next_step


def test_a_missing_config_map_is_named_with_what_to_do_and_is_tried_again(tmp_path: Path) -> None:
    error = refused(job(tmp_path, files={}, fidelity=from_config_map(key="a.txt")))
    assert error.reason == "TextsNotFound"
    assert error.code == ExitCode.PASSING
    assert "ConfigMap 'mine' of build.fidelity.samplesFrom doesn't exist in namespace team" in error.message
    assert "kubectl create configmap mine -n team --from-file=a.txt=…" in error.next_step


def test_a_missing_file_of_a_claim_is_named(tmp_path: Path) -> None:
    texts = {"texts": {"claimName": "models", "path": "a/b.txt"}}
    told = job(tmp_path, files={"calibration/a/c.txt": FOUR}, precision="int8", calibration=texts)
    error = refused(told)
    assert error.code == ExitCode.USER_ERROR
    assert "Claim 'models' holds no file a/b.txt, which build.calibration.texts names" in error.message


def test_a_link_leads_to_nothing_else_that_the_container_sees(tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/token").write_bytes(b"secret")
    told = job(tmp_path, files={"samples/real.txt": b"text"}, fidelity=from_config_map())
    (tmp_path / "texts/samples/texts.txt").symlink_to(tmp_path / "credentials/token")
    assert refused(told).reason == "TextsInvalid"
    (tmp_path / "texts/samples/texts.txt").unlink()
    # As the kubelet mounts ConfigMaps.
    (tmp_path / "texts/samples/texts.txt").symlink_to("real.txt")
    assert set(user_texts.bring(told)) == {"samples"}


def test_the_same_texts_name_the_same_artifact_wherever_they_lie(tmp_path: Path) -> None:
    keys = []
    for number, (where, content) in enumerate(
        [
            (from_config_map(), b"one\ntwo\n"),
            (from_config_map("other", key="x"), b"one\r\n\ntwo"),
            ({"samplesFrom": {"claimName": "c", "path": "x"}}, b"one\ntwo\nthree\n"),
        ]
    ):
        name = (where["samplesFrom"].get("key") or where["samplesFrom"].get("path")) or "texts.txt"
        told = job(tmp_path / str(number), files={f"samples/{name}": content}, fidelity=where)
        keys.append(fetch.run(told, State(request_key="k1")).artifact_key)
    without = job(tmp_path / "plain", files={})
    assert keys[0] == keys[1]
    assert len({*keys, fetch.run(without, State(request_key="k1")).artifact_key}) == 3


def supply() -> samples.Tokens:
    return samples.Tokens(config_checks.Config.model_validate(building.CONFIG), list(range(5, 40)), None)


def test_they_judge_and_calibrate_instead_of_the_built_in_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"samples/texts.txt": b"the\tthe the\n", "calibration/texts.txt": FOUR}
    wish = {"precision": "int8", "calibration": {"texts": {"configMapName": "mine"}}, "fidelity": from_config_map()}
    told = job(tmp_path, files=files, **wish)
    user_texts.bring(told)
    asked: list[Any] = []
    monkeypatch.setattr(probes, "_encoded", lambda _, words, *__: asked.append(list(words)) or [Sample("x", {})])
    own = user_texts.load(told, user_texts.SAMPLES)
    probes.texts(told.model, supply(), told.request.build, own)
    answer._calibration(told, supply())
    assert asked == [[("the", "the the")], [(word, None) for word in ("one", "two", "three", "four")]]


def test_without_a_tokenizer_the_field_is_named(tmp_path: Path) -> None:
    told = job(tmp_path, files={"samples/texts.txt": b"text"}, fidelity=from_config_map())
    user_texts.bring(told)
    own = user_texts.load(told, user_texts.SAMPLES)
    with pytest.raises(BuildError, match=r"build\.fidelity\.samplesFrom are texts, and the source has no tokenizer"):
        probes.texts(tmp_path, supply(), told.request.build, own)


def test_token_ids_come_back_for_the_compilation(tmp_path: Path) -> None:
    ids = {"input_ids": np.array([[5, 6]]), "attention_mask": np.array([[1, 1]])}
    recorded.save_ids(tmp_path / "ids.npz", Recording([Recorded(Sample("x", ids), {})], 7, [Sample("y", ids)] * 2))
    texts, calibration, pad = recorded.load_ids(tmp_path / "ids.npz")
    assert (len(texts), len(calibration), pad) == (1, 2, 7)
    assert texts[0].inputs["input_ids"].tolist() == [[5, 6]]
    assert texts[0].inputs["input_ids"].dtype == np.int64
