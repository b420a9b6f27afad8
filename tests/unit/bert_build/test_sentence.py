"""What sentence-transformers' files say of a sentence's vector."""

import json
from pathlib import Path
from typing import Any

import pytest

from bert_build import sentence
from bert_build.failures import BuildError
from bert_build.sentence import Pooling
from unit.bert_build import building

MODULES = ("Transformer", "Pooling", "Normalize")


def write(folder: Path, modules: tuple[str, ...] = MODULES, path: str = "1_Pooling", **pooling: Any) -> Path:
    listed = [
        {"type": f"sentence_transformers.models.{kind}", "path": path if kind == "Pooling" else ""} for kind in modules
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("asked", "modes"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean_tokens",)),
        ({"pooling_mode_cls_token": True}, ("cls_token",)),
        # In the order in which they are joined there, whatever the file's.
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max_tokens", "mean_tokens")),
        ({"pooling_mode": "mean"}, ("mean_tokens",)),
    ],
)
def test_pooling_is_read_as_it_is_written(tmp_path: Path, asked: dict[str, Any], modes: tuple[str, ...]) -> None:
    assert sentence.pooling(write(tmp_path, **asked)) == (Pooling(modes, normalize=True), "")
    assert sentence.pooling(write(tmp_path, MODULES[:2], **asked)) == (Pooling(modes, normalize=False), "")


def test_a_plain_checkpoint_has_no_sentence_vector(tmp_path: Path) -> None:
    assert sentence.pooling(tmp_path) == (None, "")


@pytest.mark.parametrize(
    ("modules", "pooling", "says"),
    [
        (("Transformer", "Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "Dense"),
        (MODULES, {"pooling_mode_lasttoken": True}, "lasttoken"),
        (MODULES, {}, "no pooling"),
    ],
)
def test_what_is_not_built_is_left_out_with_its_reason(
    tmp_path: Path, modules: tuple[str, ...], pooling: dict[str, Any], says: str
) -> None:
    found, why = sentence.pooling(write(tmp_path, modules, **pooling))
    assert found is None
    assert says in why


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, pooling_mode_mean_tokens=True)
    for text in (b"{", building.NESTED):
        (tmp_path / "1_Pooling" / "config.json").write_bytes(text)
        with pytest.raises(BuildError, match=r"1_Pooling/config\.json can't be used"):
            sentence.pooling(tmp_path)
    (tmp_path / "modules.json").write_text("{}")
    with pytest.raises(BuildError, match=r"modules\.json can't be used: it is no list"):
        sentence.pooling(tmp_path)
