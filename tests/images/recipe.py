"""Reads a Dockerfile: which bases it starts from, which files it copies, and the hash of all that.

Pure but for reading the files to hash. `catalog` calls it to name images by their content.
"""

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from images.errors import ImagesError

_IGNORED_FOLDERS: Final = frozenset({"__pycache__"})
_HASH_LENGTH: Final = 12


@dataclass(frozen=True)
class Recipe:
    """What a Dockerfile takes from outside itself."""

    bases: tuple[str, ...]
    """Images it starts from or copies from, its own stages left out; in order, each once."""
    sources: tuple[str, ...]
    """Files and folders of the build context that it copies, as written."""


def parse(text: str) -> Recipe:
    """The recipe of a Dockerfile's text."""
    bases: list[str] = []
    sources: list[str] = []
    stages: set[str] = set()
    for words in _instructions(text):
        flags = [word for word in words[1:] if word.startswith("--")]
        operands = [word for word in words[1:] if not word.startswith("--")]
        match words[0].upper():
            case "FROM":
                bases.append(operands[0])
                stages.update(operands[2:3])
            case "COPY" | "ADD":
                outside = [flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")]
                bases.extend(outside)
                sources.extend(() if outside else operands[:-1])
            case _:
                pass
    return Recipe(
        bases=tuple(dict.fromkeys(base for base in bases if base not in stages and base != "scratch")),
        sources=tuple(dict.fromkeys(sources)),
    )


def content_hash(top: Path, paths: Sequence[str], extra: Sequence[str] = ()) -> str:
    """12 hex digits that change when a file below one of the paths changes, appears, goes or turns executable."""
    digest = hashlib.sha256()
    for text in extra:
        digest.update(f"extra {len(text)}\0{text}".encode())
    for path in sorted(set(paths)):
        for file in files_below(top, path):
            content = file.read_bytes()
            mode = "x" if file.stat().st_mode & 0o100 else "-"
            digest.update(f"{file.relative_to(top)}\0{mode}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:_HASH_LENGTH]


def files_below(top: Path, path: str) -> list[Path]:
    """The files that copying `path` takes along, sorted; byte code isn't one (.dockerignore keeps it out, too)."""
    start = top / path
    if start.is_file():
        return [start]
    if not start.is_dir():
        raise ImagesError(f"{path}: a Dockerfile copies it, but {top} has no such file or folder")
    found = (file for file in start.rglob("*") if file.is_file())
    return sorted(file for file in found if not _IGNORED_FOLDERS.intersection(file.parts))


def _instructions(text: str) -> Iterator[list[str]]:
    without_comments = "\n".join(line for line in text.splitlines() if not re.match(r"\s*#", line))
    for line in re.sub(r"\\\s*\n", " ", without_comments).splitlines():
        instruction = line.strip()
        if re.match(r"(FROM|COPY|ADD)\s", instruction, re.IGNORECASE):
            yield shlex.split(instruction)
