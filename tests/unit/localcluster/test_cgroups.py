from pathlib import Path

import pytest

from localcluster import cgroups


@pytest.fixture
def hybrid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders in the shape of a v1 and v2 hybrid; removing a folder works as in the real one, if it is empty."""
    for name in ("cpu,cpuacct", "cpuset", "pids", "unified"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("hybrid")
def test_a_hierarchy_with_two_names_is_one() -> None:
    assert [root.name for root in cgroups.hierarchies()] == ["cpu,cpuacct", "cpuset", "pids", "unified"]


@pytest.mark.usefixtures("hybrid")
def test_a_group_is_made_and_removed_in_every_hierarchy() -> None:
    assert cgroups.make("x", "node1") == "/lc_x/node1"
    assert all((root / "lc_x" / "node1").is_dir() for root in cgroups.hierarchies())
    assert cgroups.exists("x")
    cgroups.remove("x")
    assert not cgroups.exists("x")


@pytest.mark.usefixtures("hybrid")
def test_one_clusters_removal_leaves_the_other() -> None:
    cgroups.make("x", "node1")
    cgroups.make("x2", "node1")
    cgroups.remove("x")
    assert cgroups.exists("x2")


@pytest.mark.usefixtures("hybrid")
def test_a_cluster_that_never_was_has_nothing_to_end() -> None:
    cgroups.kill_all("x")
    cgroups.remove("x")
