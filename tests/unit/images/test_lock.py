"""Locks must match what they are made from, carry a hash for everything, and name no machine."""

import re

import pytest

from images import lock
from images.catalog import TOP
from images.lock import LOCKS, Lock, Package

_PYLOCK = """\
lock-version = "1.0"
[[packages]]
name = "numpy"
version = "2.5.5"
index = "https://mirror.example/simple"
wheels = [{ url = "https://mirror.example/numpy-2.5.5.whl", hashes = { sha256 = "aa" } }]
[[packages]]
name = "anyio"
version = "4.16.0"
marker = "sys_platform != 'emscripten'"
wheels = [
  { url = "https://mirror.example/a.whl", hashes = { sha256 = "cc" } },
  { url = "https://mirror.example/b.whl", hashes = { sha256 = "bb" } },
]
"""
_LOCK = Lock("out.txt", "pyproject.toml", ("3.13",), ("x86_64-manylinux_2_40",))


def test_a_rendered_lock_has_pins_markers_and_sorted_hashes_and_no_address() -> None:
    text = lock.render(_LOCK, "0123456789ab", lock.read_pylock(_PYLOCK))
    assert text.splitlines()[1:] == [
        "# inputs: 0123456789ab",
        "anyio==4.16.0 ; sys_platform != 'emscripten' \\",
        "    --hash=sha256:bb \\",
        "    --hash=sha256:cc",
        "numpy==2.5.5 \\",
        "    --hash=sha256:aa",
    ]


def test_platforms_share_versions_and_add_hashes() -> None:
    intel = {"numpy": Package("2.5.5", "", frozenset({"aa"}))}
    arm = {"numpy": Package("2.5.5", "", frozenset({"bb"})), "only-arm": Package("1", "", frozenset({"cc"}))}
    assert lock.merge(intel, arm) == {
        "numpy": Package("2.5.5", "", frozenset({"aa", "bb"})),
        "only-arm": Package("1", "", frozenset({"cc"})),
    }


@pytest.mark.parametrize("made", LOCKS, ids=lambda made: made.output)
def test_committed_locks_are_made_from_what_is_asked_for_now(made: Lock) -> None:
    assert f"# inputs: {lock.fingerprint(made)}\n" in (TOP / made.output).read_text(), (
        f"run `make lock`: {made.source} changed"
    )


@pytest.mark.parametrize("made", LOCKS, ids=lambda made: made.output)
def test_committed_locks_pin_every_requirement_by_hash_and_name_no_machine(made: Lock) -> None:
    text = (TOP / made.output).read_text()
    pins = re.findall(r"^([a-z0-9-]+)==\S+.* \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.MULTILINE)
    unpinned = [
        line for line in text.splitlines() if not line.startswith(("#", " ")) and line.split("==")[0] not in pins
    ]
    assert unpinned == []
    asked = {re.split(r"[\[<>=]", line)[0].strip().lower().replace("_", "-") for line in lock.requirements(made)}
    assert asked <= set(pins)
    assert re.search(r"https?:|--index|--find-links|(?<![\w.])/\w", text) is None


def test_numpy_stays_below_2_beside_tritons_python_backend() -> None:
    assert re.search(r"^numpy==1\.26\.", (TOP / "build_jobs/triton-cpu-requirements.txt").read_text(), re.MULTILINE)


def test_torch_is_never_taken_from_pypi() -> None:
    assert (
        re.search(r"^torch==|^nvidia-cu", (TOP / "build_jobs/pytorch-requirements.txt").read_text(), re.MULTILINE)
        is None
    )
