"""What a BertDeployment becomes, as YAML a person can read. `make golden` writes it anew; read the diff."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import builders
from support.fake_cluster import FakeCluster

HERE = Path(__file__).parent
CASES = sorted(folder.name for folder in HERE.iterdir() if (folder / "input.yaml").exists())


def rendered(case: str) -> dict[str, str]:
    """File name -> YAML of everything the operator made on the way to Ready."""
    wish = yaml.safe_load((HERE / case / "input.yaml").read_text(encoding="utf-8"))
    name = wish["metadata"]["name"]
    world = FakeCluster(builders.bert(name, spec=wish["spec"]), builders.claim("models", uid="models", ours=False))
    made: dict[str, dict[str, Any]] = {}
    for plan in world.settle(builders.settings(), name):
        for manifest in (*plan.apply, *plan.create):
            made[f"{manifest['kind'].lower()}-{manifest['metadata']['name']}"] = dict(manifest)
    made["status"] = world.bert(name)["status"]
    return {f"{key}.yaml": _readable(value) for key, value in sorted(made.items())}


class _Dumper(yaml.SafeDumper):
    """YAML as a person writes it: no aliases, generated files as blocks."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _readable(value: dict[str, Any]) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110)


@pytest.mark.parametrize("case", CASES)
def test_it_becomes_what_the_golden_files_say(case: str) -> None:
    expected = HERE / case / "expected"
    actual = rendered(case)
    if os.environ.get("GOLDEN") == "write":
        expected.mkdir(exist_ok=True)
        for old in expected.glob("*.yaml"):
            old.unlink()
        for name, text in actual.items():
            (expected / name).write_text(text, encoding="utf-8")
    assert {path.name: path.read_text(encoding="utf-8") for path in expected.glob("*.yaml")} == actual
