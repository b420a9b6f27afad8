"""What the README and the docs say is there, is there."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([A-Za-z0-9._/-]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_make_command_is_a_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named <= targets


def test_the_install_command_sets_values_that_the_chart_has() -> None:
    command = next(block for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) if "helm upgrade" in block)
    words = shlex.split(command.split("\nkubectl")[0].replace("\\\n", " "))
    values = yaml.safe_load((ROOT / "charts/bert-operator/values.yaml").read_text(encoding="utf-8"))
    for word in [words[i + 1] for i, word in enumerate(words) if word == "--set"]:
        found = values
        for part in word.split("=")[0].split("."):
            assert part in found
            found = found[part]
    assert (ROOT / words[words.index("--install") + 2]).is_dir()


def test_the_readme_quotes_the_campaign_as_its_page_has_it() -> None:
    families = json.loads((ROOT / "docs" / "campaign.json").read_text(encoding="utf-8"))
    about = families.pop("about")
    plans, failed = (sum(one[key] for one in families.values()) for key in ("plans", "failed"))
    told = f"{plans} plans, {failed} failed, in {float(about['minutes']):.0f} minutes"
    assert told in " ".join(README.split())


def test_the_readme_quotes_the_bench_as_its_page_has_it() -> None:
    targets = json.loads((ROOT / "docs" / "bench-operator.json").read_text(encoding="utf-8"))["details"]["targets"]
    met = sum(value >= target if sign == "≥" else value <= target for _, value, sign, target in targets)
    assert f"{met} of {len(targets)} targets are met" in " ".join(README.split())


def test_the_walk_through_follows_the_sample_it_names() -> None:
    (sample,) = set(re.findall(r"kubectl apply -f (crds/samples/\S+\.yaml)", README))
    assert (ROOT / sample).exists()
