"""The product's own Dockerfiles, as they are in this tree."""

import re
import subprocess
from pathlib import Path

import pytest

from images import build, catalog, debian
from images.cache import Cache
from images.errors import ImagesError

IMAGES = sorted(catalog.DOCKERFILES)


@pytest.mark.parametrize("name", IMAGES)
def test_every_image_has_a_tag_of_its_content_and_bases_that_can_be_made_without_a_registry(name: str) -> None:
    image = catalog.image(name)
    assert re.fullmatch(rf"localhost/bert-operator/{name}:[0-9a-f]{{12}}", image.tag)
    assert {debian.suite_of(base) for base in image.bases} <= {"trixie", "bookworm"}


@pytest.mark.parametrize("name", IMAGES)
def test_images_run_as_a_plain_user_by_number(name: str) -> None:
    # runAsNonRoot refuses an image whose user is a name.
    text = (catalog.TOP / catalog.DOCKERFILES[name]).read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "1000:1000"


@pytest.mark.parametrize("name", sorted(set(IMAGES) - set(catalog.PARENTS)))
def test_requirements_are_installed_by_hash_only(name: str) -> None:
    text = (catalog.TOP / catalog.DOCKERFILES[name]).read_text()
    installs = re.findall(r"pip install (.*?)&&", text, re.DOTALL)
    assert installs
    assert all("--require-hashes" in install and "--only-binary :all:" in install for install in installs)


def test_the_tag_follows_the_sources(tmp_path: Path) -> None:
    _tree(tmp_path)
    before = catalog.image("operator", tmp_path)
    (tmp_path / "package" / "a.py").write_text("a = 2")
    after = catalog.image("operator", tmp_path)
    assert before.tag != after.tag
    assert after.archive(Cache(tmp_path)) == tmp_path / "images" / f"operator-{after.digest}.tar"


def test_commands_that_bring_newer_sources_along_find_the_same_toolchain(tmp_path: Path) -> None:
    _tree(tmp_path)
    before = catalog.image("operator", tmp_path).toolchain_tag
    (tmp_path / "package" / "a.py").write_text("a = 2")
    assert catalog.image("operator", tmp_path).toolchain_tag == before
    (tmp_path / "requirements.txt").write_text("two")
    assert catalog.image("operator", tmp_path).toolchain_tag != before


def test_an_image_that_starts_from_another_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path)
    (tmp_path / "child").write_text("ARG PARENT\nFROM ${PARENT}\n")
    monkeypatch.setitem(catalog.DOCKERFILES, "child", "child")
    monkeypatch.setitem(catalog.PARENTS, "child", "operator")
    before = catalog.image("child", tmp_path)
    assert before.bases == catalog.image("operator", tmp_path).bases
    assert before.build_arguments == [f"--build-arg=PARENT={catalog.image('operator', tmp_path).tag}"]
    (tmp_path / "package" / "a.py").write_text("a = 2")
    changed = catalog.image("child", tmp_path)
    assert changed.tag != before.tag
    assert changed.toolchain_tag == before.toolchain_tag


def test_a_parent_is_built_before_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path)
    (tmp_path / "child").write_text("ARG PARENT\nFROM ${PARENT}\n")
    monkeypatch.setitem(catalog.DOCKERFILES, "child", "child")
    monkeypatch.setitem(catalog.PARENTS, "child", "operator")
    engine = _Engine()
    monkeypatch.setattr(build, "choose", lambda _cache: engine)
    build.archives([catalog.image(name, tmp_path) for name in ("child", "operator")], Cache(tmp_path / "c"), tmp_path)
    assert engine.built == ["operator", "child"]


class _Engine:
    """Remembers what was built, in order."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def has(self, tag: str) -> bool:
        return tag.rpartition("/")[2].partition(":")[0] in self.built

    def prepare_base(self, base: str) -> None:
        pass

    def build(self, image: catalog.Image, _top: Path) -> None:
        self.built.append(image.name)

    def save(self, _image: catalog.Image, archive: Path) -> None:
        archive.touch()


def test_unknown_images_and_missing_dockerfiles_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match=f"'tritn'; there are {', '.join(catalog.DOCKERFILES)}"):
        catalog.image("tritn")
    with pytest.raises(ImagesError, match="operator/Dockerfile is missing"):
        catalog.image("operator", tmp_path)


def test_a_warm_build_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path)
    image = catalog.image("operator", tmp_path)
    cache = Cache(tmp_path / "cache")
    (cache.folder("images") / image.archive(cache).name).touch()
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: pytest.fail("a program was started"))
    assert build.archives([image], cache, tmp_path) == {image: image.archive(cache)}


def _tree(top: Path) -> None:
    (top / "operator").mkdir()
    (top / "operator" / "Dockerfile").write_text(
        "FROM docker.io/library/debian:trixie-slim\nCOPY requirements.txt package /app\n"
    )
    (top / "requirements.txt").write_text("one")
    (top / "package").mkdir()
    (top / "package" / "a.py").write_text("a = 1")
