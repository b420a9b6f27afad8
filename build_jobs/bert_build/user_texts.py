"""Texts of the user's, from a ConfigMap or a claim: those that judge a build, and those that calibrate it.

`fetch` alone sees the files. It reads them once, so that what names the artifact is what is used; `answer` takes them
from the scratch folder.
"""

import hashlib
import json
import math
import os
from typing import Final

from bert_build.failures import BuildError
from bert_build.job import Job
from bert_operator.api.report import ExitCode
from bert_operator.api.spec import TextsSource

SAMPLES: Final = "samples"
CALIBRATION: Final = "calibration"
FIELDS: Final = {SAMPLES: "build.fidelity.samplesFrom", CALIBRATION: "build.calibration.texts"}
_COUNTS: Final = {SAMPLES: (1, 64), CALIBRATION: (4, 512)}
"""How many texts each takes: few show little, many cost minutes."""
_BYTES: Final = 4 << 20
_LONGEST: Final = 20_000
"""Letters of a line."""
_FOLDER: Final = "texts"

Words = tuple[str, str | None]
"""A text, and the second one of a pair."""


def bring(job: Job) -> dict[str, str]:
    """Read every file that the request names into the scratch folder; the digest of each one's texts.

    Raises:
        BuildError: a file isn't there, can't be read or holds anything else than texts.
    """
    digests = {}
    for role, source in job.request.build.texts.items():
        found = parsed(_read(job, role, source), role)
        target = job.work / _FOLDER / f"{role}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(found), encoding="utf-8")
        digests[role] = hashlib.sha256(json.dumps(found, separators=(",", ":")).encode()).hexdigest()
    return digests


def load(job: Job, role: str) -> list[Words]:
    """What `bring` read for this; none if the request names no file for it."""
    if role not in job.request.build.texts:
        return []
    listed = json.loads((job.work / _FOLDER / f"{role}.json").read_text(encoding="utf-8"))
    return [(text, pair) for text, pair in listed]


def parsed(content: bytes, role: str) -> list[Words]:
    """The texts of a file: one a line, of a pair the second behind a tab; empty lines are passed over.

    Raises:
        BuildError: it holds something else, too few or too many.
    """
    if len(content) > _BYTES:
        raise _too_large(role, len(content))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise _invalid(role, f"is no UTF-8 text: line {number} holds other bytes") from error
    lines = enumerate(text.split("\n"), start=1)
    found = [_words(role, number, line) for number, line in lines if line.strip()]
    least, most = _COUNTS[role]
    if not least <= len(found) <= most:
        raise _invalid(role, f"holds {len(found)} texts, {least} to {most} are needed")
    return found


def _words(role: str, number: int, line: str) -> Words:
    # Only now: a tab at the end of a line tells that the second text is missing.
    parts = [part.strip() for part in line.split("\t")]
    if len(parts) > 2:  # noqa: PLR2004 - a pair
        raise _invalid(role, f"has {len(parts) - 1} tabs in line {number}: a tab stands between the texts of a pair")
    if not all(parts):
        raise _invalid(role, f"has nothing on one side of the tab in line {number}: both texts of a pair are needed")
    if (letters := len(line.strip())) > _LONGEST:
        raise _invalid(role, f"has {letters} letters in line {number}, at most {_LONGEST} are read")
    return parts[0], parts[1] if len(parts) > 1 else None


def _read(job: Job, role: str, source: TextsSource) -> bytes:
    try:
        return _content(job, role, source)
    except PermissionError as error:
        raise _unreadable(role, source) from error


def _content(job: Job, role: str, source: TextsSource) -> bytes:
    root = (job.texts / role).resolve()
    try:
        path = (root / source.file).resolve(strict=True)
    except PermissionError:
        raise
    except (OSError, RuntimeError) as error:
        raise _missing(job, role, source) from error
    # A link must not lead to what else this container sees.
    if not path.is_relative_to(root) or not path.is_file():
        raise _invalid(role, f"is no plain file: {source.file}")
    if (size := path.stat().st_size) > _BYTES:
        raise _too_large(role, size)
    with path.open("rb") as file:
        return file.read(_BYTES + 1)


def _missing(job: Job, role: str, source: TextsSource) -> BuildError:
    """The file isn't there. Somebody may be about to make the ConfigMap, so that passes."""
    namespace = job.request.owner.partition("/")[0]
    again = "to have it looked for at once, give the annotation bertops.dev/refresh a new value."
    if source.config_map_name:
        return BuildError(
            "TextsNotFound",
            f"ConfigMap {source.config_map_name!r} of {FIELDS[role]} doesn't exist in namespace {namespace}, or "
            f"doesn't hold the key {source.file!r}.",
            f"`kubectl create configmap {source.config_map_name} -n {namespace} --from-file={source.file}=…`; {again}",
            ExitCode.PASSING,
        )
    return BuildError(
        "TextsNotFound",
        f"Claim {source.claim_name!r} holds no file {source.file}, which {FIELDS[role]} names.",
        f"Correct {FIELDS[role]}.path, or put the file there; then {again}",
    )


def _unreadable(role: str, source: TextsSource) -> BuildError:
    where = f"claim {source.claim_name!r}" if source.claim_name else f"ConfigMap {source.config_map_name!r}"
    return BuildError(
        "TextsUnreadable",
        f"File {source.file} of {where}, which {FIELDS[role]} names, can't be read by user {os.getuid()}: its mode or "
        "that of a folder above it forbids it.",
        "Make it readable, e.g. `chmod -R a+rX` on its folder; then give the annotation bertops.dev/refresh a new "
        "value.",
    )


def _too_large(role: str, size: int) -> BuildError:
    # Rounded up: a byte over the limit isn't the limit.
    return _invalid(role, f"holds {math.ceil(size * 10 / 2**20) / 10} MiB, at most {_BYTES >> 20} are read")


def _invalid(role: str, what: str) -> BuildError:
    return BuildError(
        "TextsInvalid",
        f"The file of {FIELDS[role]} {what}.",
        "Write one text a line in UTF-8, of a pair the second text behind a tab; then give the annotation "
        "bertops.dev/refresh a new value.",
    )
