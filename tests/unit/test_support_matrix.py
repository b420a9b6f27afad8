"""The committed support matrix is that of this code; `make support-matrix` measures it anew."""

import json

import pytest

from bert_build import config_checks
from bert_build.failures import BuildError
from bert_operator.api.spec import Build
from matrix import table

CELLS = table.parsed(table.JSON_FILE.read_text(encoding="utf-8"))


def test_every_family_task_and_format_of_the_code_was_measured() -> None:
    assert [(cell.family, cell.task, cell.format) for cell in CELLS] == list(table.wanted())


def test_both_files_tell_the_same() -> None:
    assert table.MARKDOWN_FILE.read_text(encoding="utf-8") == table.as_markdown(CELLS)
    assert table.JSON_FILE.read_text(encoding="utf-8") == table.as_json(CELLS)


def test_nothing_that_is_offered_fails() -> None:
    assert {cell.status for cell in CELLS} == {table.WORKS, table.REFUSED}
    assert all(bool(cell.message) == (cell.status == table.REFUSED) for cell in CELLS)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.format}-{cell.family}-{cell.task}")
def test_what_is_refused_is_refused_by_config_json_alone(cell: table.Cell) -> None:
    text = json.dumps({"model_type": cell.family}).encode()
    build = Build.model_validate({"task": cell.task, "format": cell.format})
    if cell.status == table.WORKS:
        config_checks.check(text, build)
    else:
        with pytest.raises(BuildError) as caught:
            config_checks.check(text, build)
        assert caught.value.message == cell.message
