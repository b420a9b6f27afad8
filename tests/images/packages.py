"""Folders of the cache with Python packages as a lock names them, for the Python of the images. `run` and benches mount
them beside the sources: test tools and the like are no part of a product image.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from images import catalog, recipe
from images.cache import Cache
from images.commands import run
from images.progress import step

# The images' Python is 3.13, ours may not be: take its wheels, whatever runs here.
_WHEELS: Final = ("--only-binary=:all:", "--python-version=3.13", "--no-deps", "--require-hashes")


def folder(name: str, lock: str, what: str, cache: Cache, options: Sequence[str] = ()) -> Path:
    """The folder for the lock as it is now; older ones go.

    Args:
        name: what the folder is called in the cache, before a hash.
        lock: the lock file, below the source tree.
        what: what is in it, for the user.
        cache: where.
        options: more of pip's.

    Raises:
        ImagesError: pip failed.
    """
    made = cache.folder("tools") / f"{name}-{recipe.content_hash(catalog.TOP, [lock])}"
    with cache.lock(what.replace(" ", "-")):
        if not made.exists():
            step(f"installing the {what}")
            for old in cache.folder("tools").glob(f"{name}-*"):
                shutil.rmtree(old)
            partial = cache.folder("tools", f"{name}-partial")
            command = [sys.executable, "-m", "pip", "install", "-q", *_WHEELS, *options]
            run([*command, f"--target={partial}", "-r", str(catalog.TOP / lock)], what=f"installing the {what}")
            partial.rename(made)
    return made
