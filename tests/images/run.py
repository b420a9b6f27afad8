"""Runs a command inside one of our images with this source tree at /src, so that tests meet the image's own Python.

`__main__` calls it. Test tools (pytest and friends) are no part of a product image: they come from a folder of the
cache, made from test-tools.txt beside this file, and are mounted next to the sources.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from images import build, catalog, packages
from images.cache import Cache
from images.errors import ImagesError
from images.job import Job

_TOOLS: Final = "tests/images/test-tools.txt"
_SOURCES: Final = "/src"
_TOOLS_INSIDE: Final = "/tools"
_BYTE_CODE: Final = "/byte-code"
_HOME: Final = "/tmp"  # noqa: S108 -- inside the container, which is thrown away
_PYTHON_PATHS: Final = ("/src/operator", "/src/build_jobs", "/src/tests", _TOOLS_INSIDE)


def inside(name: str, command: Sequence[str], *, mounts: Sequence[str], variables: Sequence[str], cache: Cache) -> int:
    """The command's exit status. The sources win over the packages that the image carries."""
    if not command:
        raise ImagesError(f"say what to run: python -m images run {name} -- python -m pytest tests/build")
    image = catalog.image(name)
    job = Job(
        command=tuple(command),
        mounts={catalog.TOP: _SOURCES, _test_tools(cache): _TOOLS_INSIDE, **_mounts(mounts)},
        kept={_byte_code(image, cache): _BYTE_CODE},
        environment={**environment(), **_variables(variables)},
        folder=_SOURCES,
    )
    return build.in_engine(image, cache).run(image, job)


def environment() -> dict[str, str]:
    """What a command inside finds set: a home it can write to, and no byte code or caches in the read-only sources."""
    return {
        "HOME": _HOME,
        "PYTHONPATH": ":".join(_PYTHON_PATHS),
        # The image sets it: a build starts one Python a step, and each would compile the mounted sources anew.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": _BYTE_CODE,
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{_HOME}/hypothesis",
    }


def _variables(texts: Sequence[str]) -> Mapping[str, str]:
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise ImagesError(f"--env {wrong[0]}: write NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def _mounts(texts: Sequence[str]) -> Mapping[Path, str]:
    mounts: dict[Path, str] = {}
    for text in texts:
        folder, _, place = text.rpartition(":")
        if not folder or not place.startswith("/") or not Path(folder).is_dir():
            raise ImagesError(f"--mount {text}: write FOLDER:/PLACE with a folder that exists")
        mounts[Path(folder).absolute()] = place
    return mounts


def _byte_code(image: catalog.Image, cache: Cache) -> Path:
    """A folder for byte code, one for each toolchain: others have other packages in the same places. Older ones go."""
    mine = image.toolchain_tag.rpartition("-")[2]
    with cache.lock(f"byte-code-{image.name}"):
        for old in cache.folder("byte-code", image.name).iterdir():
            if old.name != mine:
                shutil.rmtree(old, ignore_errors=True)
        folder = cache.folder("byte-code", image.name, mine)
        folder.chmod(0o777)  # an image's user is not ours
    return folder


def _test_tools(cache: Cache) -> Path:
    return packages.folder("test", _TOOLS, "test tools", cache)
