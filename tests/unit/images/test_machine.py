"""What is read from the machine: mirrors, engine, cache folder; and what a user sees when something is missing."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from images import build, catalog, commands, debian, engine, packaging_access, run
from images.__main__ import main
from images.buildah import Buildah, old_tags
from images.cache import Cache
from images.docker import Docker
from images.errors import ImagesError

_TARGETS = """\
Debian http://mirror.example/debian/
Google http://other.example/cloud-sdk/
Debian http://mirror.example/debian/
Debian http://mirror.example/debian-security/
"""


def test_the_mirrors_are_those_of_the_machines_apt() -> None:
    assert debian.mirrors(_TARGETS) == ("http://mirror.example/debian/", "http://mirror.example/debian-security/")
    assert debian.mirrors("Debian http://one.example/debian/") == ("http://one.example/debian/", None)


def test_a_machine_without_a_debian_mirror_is_told_what_to_do() -> None:
    with pytest.raises(ImagesError, match="apt-get update"):
        debian.mirrors("Google http://other.example/cloud-sdk/")


@pytest.mark.parametrize("base", ["docker.io/library/debian:trixie-slim", "debian:trixie-slim"])
def test_public_slim_bases_name_their_suite(base: str) -> None:
    assert debian.suite_of(base) == "trixie"


def test_other_bases_cannot_be_made_here_and_the_message_says_which_can() -> None:
    with pytest.raises(ImagesError, match=r"python:3\.13.*debian:SUITE-slim"):
        debian.suite_of("docker.io/library/python:3.13")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"BERTOPS_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/bert-operator"),
        ({"HOME": "/c"}, "/c/.cache/bert-operator"),
    ],
)
def test_the_cache_folder(environment: dict[str, str], folder: str) -> None:
    assert Cache.from_environment(environment).root == Path(folder)


def test_the_engine_can_be_chosen_by_hand_and_a_wrong_choice_is_refused(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert isinstance(engine.choose(cache, {"BERTOPS_ENGINE": "docker"}), Docker)
    assert isinstance(engine.choose(cache, {"BERTOPS_ENGINE": "buildah"}), Buildah)
    with pytest.raises(ImagesError, match="write docker or buildah"):
        engine.choose(cache, {"BERTOPS_ENGINE": "podman"})


def test_builds_are_told_of_certificates_and_index_only_where_the_machine_has_its_own() -> None:
    assert packaging_access.build_arguments({}) == []
    told = packaging_access.build_arguments(
        {"PIP_CERT": "/etc/own.crt", "PIP_INDEX_URL": "https://mirror.example/simple"}
    )
    assert told == [
        "--secret=id=ca,src=/etc/own.crt",
        "--build-arg=PIP_CERT=/run/ca.crt",
        "--build-arg=PIP_INDEX_URL=https://mirror.example/simple",
    ]


def test_missing_programs_are_named_by_their_debian_packages() -> None:
    with pytest.raises(ImagesError, match="apt-get install -y one two"):
        commands.require({"no-such-b": "two", "no-such-a": "one", "sh": "dash"}, why="x")


def test_a_failing_program_shows_its_last_words_and_where_all_of_them_are(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ImagesError, match=r"(?s)building x failed \(exit status 3\).*line 99.*log") as caught:
        commands.run(["sh", "-c", "for i in $(seq 99); do echo line $i; done; exit 3"], what="building x", log=log)
    assert "line 9\n" not in str(caught.value)
    assert log.read_text().startswith("line 1\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mount", "relative"], "write FOLDER:/PLACE"),
        (["--mount", "/no/such/folder:/x"], "write FOLDER:/PLACE"),
        (["--env", "NAME"], "write NAME=VALUE"),
    ],
)
def test_wrong_options_of_run_are_refused_before_anything_is_built(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BERTOPS_CACHE", str(tmp_path))
    monkeypatch.setattr(run, "_test_tools", lambda _cache: tmp_path)
    assert main(["run", *options, "pytorch", "--", "true"]) == 1
    assert message in capsys.readouterr().err


def test_build_without_names_takes_every_image_and_prints_where_each_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BERTOPS_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "archives", lambda images, cache: {image: image.archive(cache) for image in images})
    assert main(["build"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    expected = [catalog.image(name) for name in sorted(catalog.DOCKERFILES)]
    assert lines == [[image.name, image.tag, str(image.archive(Cache(tmp_path)))] for image in expected]


def test_building_an_unknown_image_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "tritn"]) == 1
    assert ", ".join(catalog.DOCKERFILES) in capsys.readouterr().err


def test_old_images_leave_the_storage_but_never_a_present_one_and_never_anothers() -> None:
    newest_first = [f"localhost/{name}:{number}" for number in (7, 6, 5, 4, 3, 2, 1) for name in ("x", "theirs")]

    assert old_tags(newest_first, {"localhost/x:7", "localhost/x:2"}) == [f"localhost/x:{n}" for n in (3, 1)]


@pytest.mark.parametrize(("another_at_work", "removed"), [(False, ["localhost/bert-operator/operator:1"]), (True, [])])
def test_no_image_goes_while_another_command_may_be_listing_them(
    *, another_at_work: bool, removed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _stub_buildah(tmp_path, [f"localhost/bert-operator/operator:{number}" for number in (5, 4, 3, 2, 1)])
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    buildah = Buildah(Cache(tmp_path / "cache"))
    other = Cache(tmp_path / "cache").lock("buildah-storage", shared=True) if another_at_work else nullcontext()

    with other:
        buildah.build(catalog.image("operator"), catalog.TOP)

    lines = [line.split() for line in log.read_text().splitlines()]
    assert any("bud" in line for line in lines)
    assert [line[-1] for line in lines if "rmi" in line] == removed


def _stub_buildah(folder: Path, tags: Sequence[str]) -> Path:
    """Programs of those names that note their arguments; `images` lists the tags."""
    log = folder / "called"
    (folder / "tags").write_text("\n".join(tags))
    script = f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in *" images "*) cat {folder / "tags"} ;; esac\n'
    for name in ("buildah", "skopeo", "debootstrap"):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return log
