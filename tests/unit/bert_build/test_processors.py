"""How many processors a container may use."""

import os
from pathlib import Path

import pytest

from bert_build import processors


@pytest.fixture(autouse=True)
def _sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


@pytest.mark.parametrize(
    ("told", "count"), [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 16)]
)
def test_a_limit_of_cgroup_v2_counts(tmp_path: Path, told: str, count: int) -> None:
    pod = tmp_path / "sys" / "kubepods" / "pod1"
    pod.mkdir(parents=True)
    (pod / "cpu.max").write_text(f"{told}\n")
    (tmp_path / "cgroup").write_text("0::/kubepods/pod1\n")
    assert processors.count(tmp_path / "sys", tmp_path / "cgroup") == count


@pytest.mark.parametrize(("quota", "count"), [("400000", 4), ("-1", 16)])
def test_a_limit_of_cgroup_v1_counts(tmp_path: Path, quota: str, count: int) -> None:
    pod = tmp_path / "sys" / "cpu" / "pod1"
    pod.mkdir(parents=True)
    (pod / "cpu.cfs_quota_us").write_text(quota)
    (pod / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "cgroup").write_text("4:memory:/pod1\n3:cpu,cpuacct:/pod1\n")
    assert processors.count(tmp_path / "sys", tmp_path / "cgroup") == count


def test_what_the_user_set_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    processors.one_thread_each()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]) == ("3", "1")
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name)
