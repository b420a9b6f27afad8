"""Builds the images that aren't there yet. `__main__` calls it; `run` too, for the image it runs.

An image is named by its content, so one whose archive exists is never looked at again: a warm call starts no program.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from images import catalog, oci
from images.cache import Cache
from images.catalog import Image
from images.engine import Engine, choose
from images.progress import step

_AT_ONCE: Final = 2
_KEPT: Final = 2


def archives(images: Sequence[Image], cache: Cache, top: Path = catalog.TOP) -> dict[Image, Path]:
    """An OCI archive for each image, made where it is missing."""
    missing = [image for image in images if not image.archive(cache).exists()]
    if missing:
        engine = choose(cache)
        _prepare_bases(engine, missing)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda lane: _make_archives(engine, lane, cache, top), lanes(missing)))
    return {image: image.archive(cache) for image in images}


def lanes(images: Sequence[Image]) -> list[list[Image]]:
    """Images to build one after the other, lanes side by side: the largest layer, which some share, is made once."""
    names = sorted({image.lane for image in images})
    return [[image for image in images if image.lane == name] for name in names]


def in_engine(image: Image, cache: Cache, top: Path = catalog.TOP) -> Engine:
    """The engine, with an image of that toolchain in its store: the sources in it may be older."""
    engine = choose(cache)
    if not engine.has(image.toolchain_tag):
        _prepare_bases(engine, [image])
        with cache.lock(image.name):
            if not engine.has(image.toolchain_tag):  # another may have built it meanwhile
                step(f"{image.name}: building {image.toolchain_tag}")
                _build_parent(engine, image, cache, top)
                _build_alone(engine, image, cache, top)
    return engine


def _prepare_bases(engine: Engine, images: Sequence[Image]) -> None:
    bases = sorted({base for image in images for base in image.bases})
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(engine.prepare_base, bases))


def _build(engine: Engine, image: Image, cache: Cache, top: Path) -> None:
    if not engine.has(image.tag):
        _build_parent(engine, image, cache, top)
        step(f"{image.name}: building {image.tag}")
        _build_alone(engine, image, cache, top)


def _build_alone(engine: Engine, image: Image, cache: Cache, top: Path) -> None:
    """Not beside another of its lane, whichever process builds that."""
    with cache.lock(f"lane-{image.lane}"):
        engine.build(image, top)


def _build_parent(engine: Engine, image: Image, cache: Cache, top: Path) -> None:
    if image.parent:
        with cache.lock(image.parent.name):
            _build(engine, image.parent, cache, top)


def _make_archives(engine: Engine, lane: Sequence[Image], cache: Cache, top: Path) -> None:
    for image in lane:
        _make_archive(engine, image, cache, top)


def _make_archive(engine: Engine, image: Image, cache: Cache, top: Path) -> None:
    archive = image.archive(cache)
    with cache.lock(image.name):
        if archive.exists():
            return
        _build(engine, image, cache, top)
        step(f"{image.name}: writing {archive.name}")
        cache.folder("images")
        engine.save(image, archive)
        _prune(image, cache)
    step(f"{image.name}: done, {archive.stat().st_size / 1e6:.0f} MB")


def _prune(image: Image, cache: Cache) -> None:
    """Keep the newest archives of an image, and what their next export can reuse."""
    found = sorted(cache.folder("images").glob(f"{image.name}-????????????.tar"), key=lambda path: path.stat().st_mtime)
    for old in found[:-_KEPT]:
        old.unlink()
    layout = cache.root / "layouts" / image.name
    if layout.is_dir():
        oci.keep_only(layout, {path.stem.removeprefix(f"{image.name}-") for path in found[-_KEPT:]})
