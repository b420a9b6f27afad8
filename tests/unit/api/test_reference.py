"""docs/reference.md: complete, current, and as the API server sees it."""

import re
from pathlib import Path

import pytest

from bert_operator.api import crd, reference

ROOT = Path(__file__).parents[3]


def test_the_committed_page_is_current() -> None:
    assert reference.stale(ROOT) == "", "run `make crds`"


def test_check_shows_what_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--root", str(tmp_path)]) == 0
    assert reference.main(["--root", str(tmp_path), "--check"]) == 0
    page = tmp_path / reference.PAGE
    page.write_text(page.read_text().replace("Longest input in tokens.", "Longest input."))
    assert reference.main(["--root", str(tmp_path), "--check"]) == 1
    shown = capsys.readouterr()
    assert re.search(r"^\+.*Longest input in tokens\.", shown.out, re.MULTILINE)
    assert "make crds" in shown.err


def test_shows_type_default_bounds_and_meaning() -> None:
    lines = reference.render().splitlines()
    assert "| `maxSequenceLength` | integer | `128` | 8 to 8192 | Longest input in tokens. |" in lines
    assert any(
        line.startswith("| `task` | one of | **required** | `sequence-classification`, `token-classification`, ")
        for line in lines
    )
    assert any(
        line.startswith("| `models` | [list of object](#spec.models) | **required** | 1 to 16") for line in lines
    )
    assert any(line.startswith("| `limits` | [object](#spec.server.resources.limits) |  |") for line in lines)


def test_every_rule_is_told() -> None:
    page = reference.render()
    for definition in (crd.bert_deployment(), crd.bert_artifact()):
        messages = re.findall(r"'message': (?:'([^']*)'|\"([^\"]*)\")", str(definition))
        assert messages
        for pair in messages:
            assert reference.prose("".join(pair)) in page


def test_prose_survives_markdown() -> None:
    assert reference.prose("LD_* or <name>, e.g. `<a_b>`") == r"LD\_\* or \<name>, e.g. `<a_b>`"


def test_every_link_leads_somewhere() -> None:
    page = reference.render()
    anchors = re.findall(r'<a id="([^"]+)">', page)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= set(anchors)


def test_every_table_row_has_five_cells() -> None:
    rows = [line for line in reference.render().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert all(len(re.split(r"(?<!\\)\|", row)) == 7 for row in rows)
