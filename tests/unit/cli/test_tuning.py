"""`bertctl tuning report` gathers what the page is made of; the page itself is tested beside its module."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_operator.objects import artifact
from support import builders
from support.command_line import bertctl

KEY = "ab" * 8
MEASUREMENT: dict[str, Any] = {
    "key": KEY,
    "measuredAt": "2026-11-22T12:00:00Z",
    "image": "registry.example/triton-cpu:24.10",
    "profile": "cpu",
    "lengths": [128],
    "seconds": 60,
    "variants": [
        {"instances": 1, "maxBatchSize": 8, "points": [{"concurrency": 1, "throughput": 100.0, "p95": 12.5}]},
    ],
}


def written(folder: Path, tuning: dict[str, Any], *measurements: dict[str, Any]) -> Path:
    """What `kubectl get bertd,berta -o yaml` prints."""
    claim = builders.claim()
    record = artifact.manifest(builders.report(), claim, "cd" * 16, None)
    record["spec"]["measurements"] = list(measurements)
    status = {"tuning": {"mode": "Recommend", "model": "minilm", "artifact": record["metadata"]["name"]} | tuning}
    file = folder / "known.yaml"
    file.write_text(yaml.safe_dump({"kind": "List", "items": [builders.bert() | {"status": status}, record]}))
    return file


def test_a_page_is_written_from_a_file(tmp_path: Path) -> None:
    file = written(tmp_path, {"key": KEY, "measuredAt": "2026-11-22T12:00:00Z"}, MEASUREMENT)
    page = tmp_path / "page.html"
    ran = bertctl("tuning", "report", "minilm", "--artifact", file, "-o", page)
    assert (ran.code, ran.out, ran.err) == (0, "", f"wrote {page}\n")
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert "12.5" in text
    assert bertctl("tuning", "report", "minilm", "--artifact", file).out == text
    lost = bertctl("tuning", "report", "minilm", "--artifact", file, "-o", tmp_path / "no" / "page.html")
    assert (lost.code, "can't be written: No such file or directory" in lost.err) == (1, True)


@pytest.mark.parametrize(
    ("name", "tuning", "says"),
    [
        ("minilm", {"measuredAt": ""}, "nothing was measured for 'minilm' yet: set spec.tuning.mode to Recommend"),
        ("minilm", {"artifact": "gone"}, "BertArtifact 'gone', which holds what was measured, isn't there"),
        ("minilm", {"key": "cd"}, "holds no measurement 'cd'"),
        ("other", {}, "holds no BertDeployment 'other'"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, name: str, tuning: dict[str, Any], says: str) -> None:
    file = written(tmp_path, {"key": KEY, "measuredAt": "2026-11-22T12:00:00Z"} | tuning, MEASUREMENT)
    ran = bertctl("tuning", "report", name, "--artifact", file)
    assert (ran.code, ran.out) == (1, "")
    assert says in ran.err
