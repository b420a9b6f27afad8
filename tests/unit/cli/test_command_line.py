"""The command line as a whole: help, exit codes, what it loads, and the page that documents it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bert_operator.cli import __main__, parser
from bert_operator.cli.terminal import Exit
from support.command_line import bertctl

PAGE = (Path(__file__).parents[3] / "docs/bertctl.md").read_text(encoding="utf-8")
COMMANDS = (
    *("validate", "render", "status", "predict", "tuning report"),
    *("artifacts ls", "artifacts verify", "artifacts rm"),
)


def told(command: str) -> str:
    """Help as Python 3.11 and 3.12 print it; later ones name an option's value once, not for each spelling."""
    text = bertctl(*command.split(), "--help").out
    return re.sub(r"(?m)^  (-\w), (--[\w-]+) ([A-Z]+|\{.*?\})", r"  \1 \3, \2 \3", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_shows_each_help_as_it_is(command: str) -> None:
    shown = re.search(rf"```console\n\$ bertctl {command} --help\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    assert " ".join(shown[1].split()) == " ".join(told(command).split())


def test_there_is_a_section_for_every_command() -> None:
    listed = re.findall(r"(?m)^    (\w+)(?: |$)", bertctl("--help").out)
    assert {command.split()[0] for command in COMMANDS} == set(listed)


def test_the_exit_codes_of_the_page_are_those_of_the_program() -> None:
    assert set(re.findall(r"(?m)^\| (\d) \|", PAGE)) == {str(code.value) for code in Exit}
    assert bertctl("--version").code == Exit.OK
    assert bertctl("validate", "/nowhere").code == Exit.FAILED
    assert bertctl("frobnicate").code == Exit.USAGE


def test_a_plugin_of_kubectl_is_called_by_its_two_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kubectl-bert"])
    assert __main__._called() == "kubectl bert"
    assert parser.parser("kubectl bert").format_usage().startswith("usage: kubectl bert ")


def test_help_loads_neither_models_nor_the_kubernetes_client() -> None:
    """Completion and `--help` are typed while thinking: they must not take a second."""
    heavy = "{'pydantic', 'kubernetes', 'numpy', 'yaml'} & set(sys.modules)"
    script = f"import sys; from bert_operator.cli import __main__; __main__.parser('bertctl'); print({heavy} or '')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=_environment()
    )
    assert done.stdout.strip() == ""


def test_a_reader_that_leaves_early_is_no_error() -> None:
    sample = Path(__file__).parents[3] / "crds/samples/minilm-triton.yaml"
    script = f"{sys.executable} -m bert_operator.cli render {sample} 2>&1 | head -n 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env=_environment())
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def _environment() -> dict[str, str]:
    root = Path(__file__).parents[3]
    return {"PYTHONPATH": f"{root / 'operator'}:{root / 'build_jobs'}", "PATH": "/usr/bin:/bin"}
