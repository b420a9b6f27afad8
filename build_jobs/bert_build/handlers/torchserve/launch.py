"""The command of a TorchServe pod: unpacks each .mar under its name and version there, then becomes the server.

An artifact doesn't know under which names and versions it will be served, but TorchServe reads both from inside the
archive, and takes archives from one flat folder only. TorchServe would unpack them itself: nothing is written twice.
Java replaces this process, so it is PID 1 and gets SIGTERM. Standard library only; runs in the server's image.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ARCHIVE: Final = "model.mar"
_MANIFEST: Final = "MAR-INF/MANIFEST.json"
_DAMAGED: Final = (zipfile.BadZipFile, zlib.error, EOFError, LookupError, RuntimeError, TypeError, ValueError)
"""What zipfile and json say of a file that isn't what it should be."""
_HERE: Final = Path(__file__).parent


def main(arguments: Sequence[str]) -> int:
    """Unpack, then exec; returns only if that fails."""
    parser = argparse.ArgumentParser("launch", description="Start TorchServe on unpacked model archives.")
    parser.add_argument("--config", required=True, type=Path, help="config.properties")
    parser.add_argument("--store", required=True, type=Path, help="where archives are unpacked; emptied first")
    parser.add_argument("--model", action="append", nargs=3, default=[], metavar=("NAME", "VERSION", "FOLDER"))
    parser.add_argument("--java", action="append", default=[], metavar="FLAG", help="flag of the JVM")
    options = parser.parse_args(arguments)
    try:
        # A container that died left its own there.
        shutil.rmtree(options.store, ignore_errors=True)
        options.store.mkdir(parents=True)
        for name, version, folder in options.model:
            unpack(Path(folder) / ARCHIVE, options.store / f"{name}-{version}", name, version)
        command = java(options.config, options.store, options.java)
        sys.stdout.flush()
        os.execvp(command[0], command)  # noqa: S606 - no shell, our own arguments
    except (OSError, ValueError) as error:
        sys.stderr.write(f"TorchServe can't start: {error}\n")
        return 1


def unpack(archive: Path, target: Path, name: str, version: str) -> None:
    """Unpack one .mar and write into its manifest by which name and version it is served.

    Raises:
        OSError: it can't be read, or there is no room.
        ValueError: it is no model archive.
    """
    target.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(target)
        manifest = json.loads((target / _MANIFEST).read_bytes())
        manifest["model"] |= {"modelName": name, "modelVersion": version}
    except _DAMAGED as error:
        raise ValueError(f"{archive} of model {name}/{version} is no whole model archive: {error}") from error
    (target / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def java(config: Path, store: Path, flags: Sequence[str]) -> list[str]:
    """TorchServe's own start command, without its wrapper: that one doesn't pass SIGTERM on."""
    found = importlib.util.find_spec("ts")
    if found is None or found.origin is None:
        raise ValueError("this image has no TorchServe")
    home = Path(found.origin).parents[1]
    return [
        *("java", f"-Dmodel_server_home={home}", "-Djava.io.tmpdir=/tmp"),
        *(f"-Dlog4j2.configurationFile=file://{_HERE / 'log4j2.xml'}", *flags),
        *("-cp", f"{home}/ts/frontend/*", "org.pytorch.serve.ModelServer", "--python", sys.executable),
        *("-f", str(config), "-s", str(store), "-w", str(store), "-ncs"),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
