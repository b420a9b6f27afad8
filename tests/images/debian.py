"""Makes the public Debian base images out of Debian packages, for machines that reach no image registry.

`buildah` calls it. The mirror is whatever this machine's own apt uses; it ends up in the image's sources.list, never in
a file of ours.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from images.cache import Cache
from images.commands import require, run
from images.errors import ImagesError

_BASE: Final = re.compile(r"(?:docker\.io/)?(?:library/)?debian:(?P<suite>[a-z]+)-slim")
# What the public slim images leave out, and what dpkg therefore leaves out of every layer above them.
_SLIM: Final = """\
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/lintian/*
"""
_EMPTIED: Final = (
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "var/lib/apt/lists",
    "var/cache/apt",
)
DOCKERFILE: Final = 'FROM scratch\nADD . /\nCMD ["bash"]\n'
RECIPE: Final = f"debootstrap minbase 1\n{_SLIM}{DOCKERFILE}"
RECIPE_HASH: Final = hashlib.sha256(RECIPE.encode()).hexdigest()[:12]
"""Part of every image's name: another way to make bases makes other images."""


def suite_of(base: str) -> str:
    """The Debian suite of a public slim image's reference."""
    found = _BASE.fullmatch(base)
    if found is None:
        raise ImagesError(f"base image {base}: only docker.io/library/debian:SUITE-slim can be made without a registry")
    return found["suite"]


def make_root(suite: str, cache: Cache) -> Path:
    """A folder with the slim system of that suite; the caller removes it."""
    mirror, security = mirrors(_index_targets())
    root = cache.folder("bases") / suite
    shutil.rmtree(root, ignore_errors=True)
    log = cache.folder("logs") / f"debootstrap-{suite}.log"
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--cache-dir={cache.folder('debs', suite)}",
        suite,
        str(root),
        mirror,
    ]
    run(command, what=f"debootstrap of {suite}", log=log)
    _slim(root, suite, mirror, security)
    return root


def mirrors(index_targets: str) -> tuple[str, str | None]:
    """The Debian mirror and the security mirror in apt's list of origins and addresses, one pair a line."""
    found = [line.split() for line in index_targets.splitlines() if line.startswith("Debian")]
    security = [words[-1] for words in found if "security" in words[-1].lower() or "Security" in words[0]]
    plain = [words[-1] for words in found if words[-1] not in security]
    if not plain:
        raise ImagesError("this machine's apt names no Debian mirror: add one to its sources and run `apt-get update`")
    return _most_frequent(plain), _most_frequent(security) if security else None


def _most_frequent(words: list[str]) -> str:
    return max(dict.fromkeys(words), key=words.count)


def _index_targets() -> str:
    require({"apt-get": "apt"}, why="making a Debian base image without Docker")
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    return run(command, what="reading apt's sources")


def _slim(root: Path, suite: str, mirror: str, security: str | None) -> None:
    """What the public slim images do after debootstrap."""
    (root / "etc/dpkg/dpkg.cfg.d/docker").write_text(_SLIM)
    sources = [f"deb {mirror} {suite} main", f"deb {mirror} {suite}-updates main"]
    if security:
        sources.append(f"deb {security} {suite}-security main")
    (root / "etc/apt/sources.list").write_text("\n".join(sources) + "\n")
    for folder in _EMPTIED:
        _empty((root / folder).glob("*"))
    _empty(path for path in (root / "var/log").rglob("*") if path.is_file())
    _empty(path for path in (root / "usr/share/doc").rglob("*") if path.is_file() and path.name != "copyright")


def _empty(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
