"""docs/kopf-traps.md names real files and real tests, and kopf is used for watching alone."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kopf-traps.md").read_text(encoding="utf-8")
USED = {"kopf.on.startup", "kopf.on.cleanup", "kopf.on.login", "kopf.on.event"}
"""None of create, update, resume, delete, field, timer, daemon and index, which keep state for us."""


def test_each_trap_names_files_and_tests_that_exist() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*)\|(.*)\|(.*)\|$", PAGE, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 17))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*/**/test_*.py"))
    known = set(re.findall(r"def (test_\w+)\(", sources))
    for number, _, remedy, held in rows:
        named = set(re.findall(r"`(test_\w+)`", held))
        assert named, f"trap {number} is held by no test"
        assert named <= known, f"trap {number} names tests that aren't there: {sorted(named - known)}"
        for file in re.findall(r"`([\w/]+\.(?:py|txt))`", remedy):
            found = (ROOT / "operator" / "bert_operator" / file).exists() or (ROOT / file).exists()
            assert found, f"trap {number} names {file}, which isn't there"


def test_kopf_keeps_no_state_for_us() -> None:
    tree = ast.parse((ROOT / "operator" / "bert_operator" / "handlers.py").read_text(encoding="utf-8"))
    named = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in named if re.fullmatch(r"kopf\.(on\.\w+|index|timer|daemon)", name)} == USED
