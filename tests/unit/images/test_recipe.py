"""What a Dockerfile takes from outside decides an image's name: a missed file would serve a stale image."""

from pathlib import Path

import pytest

from images import recipe
from images.errors import ImagesError

_DOCKERFILE = """\
# COPY this/is/a/comment /x
FROM docker.io/library/debian:trixie-slim AS venv
RUN echo FROM nowhere && \\
    # COPY a/comment/inside /x
    cp a b
COPY \\
    one.txt two.txt /there/
FROM venv AS test
from docker.io/library/debian:bookworm-slim
COPY --from=venv /opt/venv /opt/venv
COPY --from=docker.io/library/busybox:1 /bin/sh /bin/sh
COPY --chown=1000:1000 package /app/package
ADD three.tar /
"""


def test_bases_are_the_images_from_outside_and_not_the_files_own_stages() -> None:
    assert recipe.parse(_DOCKERFILE).bases == (
        "docker.io/library/debian:trixie-slim",
        "docker.io/library/debian:bookworm-slim",
        "docker.io/library/busybox:1",
    )


def test_sources_are_what_comes_from_the_context() -> None:
    assert recipe.parse(_DOCKERFILE).sources == ("one.txt", "two.txt", "package", "three.tar")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "package" / "deep").mkdir(parents=True)
    (tmp_path / "package" / "deep" / "a.py").write_text("a = 1")
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    (tmp_path / "README.md").write_text("not copied")
    return tmp_path


def _hash(tree: Path, *extra: str) -> str:
    return recipe.content_hash(tree, ["Dockerfile", "package"], extra)


def test_the_hash_is_stable_and_short(tree: Path) -> None:
    assert _hash(tree) == _hash(tree)
    assert len(_hash(tree)) == 12


def test_a_changed_copied_file_changes_the_hash(tree: Path) -> None:
    before = _hash(tree)
    (tree / "package" / "deep" / "a.py").write_text("a = 2")
    assert _hash(tree) != before


def test_a_new_a_renamed_and_an_executable_file_change_the_hash(tree: Path) -> None:
    file = tree / "package" / "deep" / "a.py"
    seen = {_hash(tree)}
    (tree / "package" / "b.py").touch()
    seen.add(_hash(tree))
    file.chmod(0o755)
    seen.add(_hash(tree))
    file.rename(file.with_name("c.py"))
    seen.add(_hash(tree))
    assert len(seen) == 4


def test_moving_text_between_files_changes_the_hash(tree: Path) -> None:
    (tree / "package" / "b.py").write_text("")
    before = _hash(tree)
    (tree / "package" / "b.py").write_text("a = 1")
    (tree / "package" / "deep" / "a.py").write_text("")
    assert _hash(tree) != before


def test_files_that_are_not_copied_and_byte_code_do_not_change_the_hash(tree: Path) -> None:
    before = _hash(tree)
    (tree / "README.md").write_text("changed")
    (tree / "package" / "__pycache__").mkdir()
    (tree / "package" / "__pycache__" / "a.pyc").write_text("x")
    assert _hash(tree) == before


def test_another_base_changes_the_hash(tree: Path) -> None:
    assert _hash(tree, "debian:trixie-slim") != _hash(tree, "debian:bookworm-slim")


def test_a_copied_path_that_is_missing_is_named(tree: Path) -> None:
    with pytest.raises(ImagesError, match="no/such/folder"):
        recipe.content_hash(tree, ["no/such/folder"])
