"""Rules of the tree that no other tool checks."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_operator_is_a_folder_and_no_package() -> None:
    """An operator/__init__.py would shadow the standard library's `operator` and break every tool that starts here."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "build_jobs" / "__init__.py").exists()


def test_every_make_target_is_listed_by_help() -> None:
    """Targets without a help text are helpers of others, known by name."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    helpers = {"lint", "type", "layers", "generate-check", "venv"}
    targets = {
        line.split(":")[0]: "## " in line for line in lines if line[:1].islower() and ":" in line and ":=" not in line
    }
    assert {name for name, listed in targets.items() if not listed} <= helpers
