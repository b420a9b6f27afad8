from pathlib import Path

import pytest

import localcluster.binaries
from localcluster.binaries import kubernetes_version
from localcluster.errors import ClusterError
from localcluster.prerequisites import go_version

_MODULE = Path(localcluster.binaries.__file__).parent


def test_the_stamped_version_is_the_one_that_is_built() -> None:
    assert kubernetes_version((_MODULE / "go.mod").read_text()).startswith("v1.36.")


def test_a_module_without_kubernetes_is_refused() -> None:
    with pytest.raises(ClusterError, match="requires no"):
        kubernetes_version("module x\n")


def test_every_component_is_in_the_binary() -> None:
    source = (_MODULE / "main.go").read_text()
    assert all(f'"{component}":' in source for component in localcluster.binaries.COMPONENTS)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [("go version go1.26.8 linux/amd64", (1, 26)), ("go version go1.9 linux/arm64", (1, 9))],
)
def test_the_version_of_go_is_read(printed: str, expected: tuple[int, int]) -> None:
    assert go_version(printed) == expected


def test_an_unknown_go_is_told() -> None:
    with pytest.raises(ClusterError, match="gccgo"):
        go_version("gccgo")
