"""Command line: `PYTHONPATH=tests python3 -m images …`. Results go to stdout, one a line, progress to stderr."""

import argparse
import sys
from pathlib import Path

from images import build, catalog, fixture, lock, run
from images.cache import Cache
from images.errors import ImagesError


def main(arguments: list[str]) -> int:
    """Carry out one command; the exit status."""
    chosen = _parser().parse_args(arguments)
    cache = Cache.from_environment()
    try:
        return int(chosen.do(chosen, cache) or 0)
    except ImagesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m images", description="container images, test models, locks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    names = sorted(catalog.DOCKERFILES)
    building = commands.add_parser("build", help="build what changed; prints NAME TAG ARCHIVE")
    building.add_argument("images", nargs="*", default=names, metavar="IMAGE", help=f"of {', '.join(names)}; all")
    building.set_defaults(do=_build)
    commands.add_parser("list", help="NAME TAG and whether its archive exists").set_defaults(do=_list)
    digest = commands.add_parser("digest", help="the content hash of an image as the files are now")
    digest.add_argument("image", choices=names)
    digest.set_defaults(do=_digest)
    running = commands.add_parser(
        "run", help="run a command inside an image, with this source tree at /src (read-only)"
    )
    running.add_argument(
        "--mount", action="append", default=[], metavar="FOLDER:INSIDE", help="one more folder, read-only"
    )
    running.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    running.add_argument("image", choices=names)
    running.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    running.set_defaults(do=_run)
    model = commands.add_parser("fixture", help="fetch a small real model; prints its folder")
    model.add_argument("name", choices=sorted(fixture.FIXTURES))
    model.add_argument("--out", type=Path, help="copy it there")
    model.set_defaults(do=_fixture)
    commands.add_parser("lock", help="write every hashed requirements file anew").set_defaults(do=_lock)
    return parser


def _build(chosen: argparse.Namespace, cache: Cache) -> None:
    for image, archive in build.archives([catalog.image(name) for name in dict.fromkeys(chosen.images)], cache).items():
        print(image.name, image.tag, archive, sep="\t")


def _list(_chosen: argparse.Namespace, cache: Cache) -> None:
    for name in sorted(catalog.DOCKERFILES):
        image = catalog.image(name)
        print(name, image.tag, "built" if image.archive(cache).exists() else "missing", sep="\t")


def _digest(chosen: argparse.Namespace, _cache: Cache) -> None:
    print(catalog.image(chosen.image).digest)


def _run(chosen: argparse.Namespace, cache: Cache) -> int:
    command = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    return run.inside(chosen.image, command, mounts=chosen.mount, variables=chosen.env, cache=cache)


def _fixture(chosen: argparse.Namespace, cache: Cache) -> None:
    print(fixture.fetch(chosen.name, cache, chosen.out))


def _lock(_chosen: argparse.Namespace, cache: Cache) -> None:
    lock.write_all(cache)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
