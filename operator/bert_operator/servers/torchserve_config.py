"""config.properties of TorchServe. `torchserve` calls it; no I/O but its template.

Every value passes the filter `property`, which escapes what Java's properties files treat as syntax, and the text is
parsed back, so no name can smuggle a setting into it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from jinja2.sandbox import SandboxedEnvironment

from bert_operator.servers import templating

_TEMPLATE: Final = "config.properties.j2"
_ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}
_ASCII: Final = range(0x20, 0x7F)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """One version of a model as TorchServe's `model_snapshot` names it; the field names are TorchServe's."""

    defaultVersion: bool  # noqa: N815
    marName: str  # noqa: N815
    """Folder of the model store that holds what was unpacked."""
    minWorkers: int  # noqa: N815
    maxWorkers: int  # noqa: N815
    batchSize: int  # noqa: N815
    maxBatchDelay: int  # noqa: N815
    """Milliseconds."""
    responseTimeout: int  # noqa: N815
    """Seconds."""
    startupTimeout: int  # noqa: N815
    """Seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """What is set once for the whole server."""

    http: int
    grpc: int
    metrics: int
    netty_threads: int
    queue: int
    """Requests that may wait for one model; more are refused with 503."""
    max_request: int
    """Bytes."""
    max_response: int
    """Bytes."""


def render(server: Server, models: Mapping[str, Mapping[int, ServedModel]]) -> str:
    """The text of config.properties.

    Args:
        server: ports, threads and bounds.
        models: name -> version -> how it is served.

    Raises:
        ValueError: the text doesn't read back as what it was printed from.
    """
    served = {name: {str(number): asdict(one) for number, one in versions.items()} for name, versions in models.items()}
    # A snapshot, not `models`: the first also says which version is the default one, and it is obeyed to the letter,
    # where an archive's own model-config.yaml overrides the second with default timeouts.
    snapshot = {"name": "bert-operator", "modelCount": sum(map(len, models.values())), "models": served}
    text = _templates().get_template(_TEMPLATE).render(**asdict(server), snapshot=json.dumps(snapshot))
    found = parse(text)
    if json.loads(found["model_snapshot"]) != snapshot or not _says(found, server):
        raise ValueError(f"{_TEMPLATE} doesn't read back as written: report this as a defect")
    return text


def parse(text: str) -> dict[str, str]:
    """What Java's Properties.load would read: the part of its syntax that we write.

    Raises:
        ValueError: a line is no `key=value`, or a key stands twice.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[a-z_]+", key) or key in found:
            raise ValueError(f"config.properties: {line[:80]!r} is no setting of its own")
        found[key] = _unescaped(value)
    return found


def escaped(value: object) -> str:
    r"""A value as Java's properties files hold it.

    Raises:
        ValueError: it holds `${`: TorchServe would put an environment variable there.
    """
    text = str(value)
    if "${" in text:
        raise ValueError(f"{text[:80]!r} holds ${{, which TorchServe replaces by an environment variable")
    plain = "".join(_ESCAPES.get(char, char if ord(char) in _ASCII else _unicode(char)) for char in text)
    return f"\\{plain}" if plain.startswith(" ") else plain


def _unicode(char: str) -> str:
    """As UTF-16, beyond the basic plane two halves."""
    raw = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{raw[at]:02x}{raw[at + 1]:02x}" for at in range(0, len(raw), 2))


def _unescaped(value: str) -> str:
    def plain(found: re.Match[str]) -> str:
        short = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}
        return chr(int(found[1][1:], 16)) if found[1].startswith("u") else short.get(found[1], found[1])

    text = re.sub(r"\\(u[0-9a-f]{4}|.)", plain, value)
    return text.encode("utf-16-be", "surrogatepass").decode("utf-16-be")


def _says(found: Mapping[str, str], server: Server) -> bool:
    """Whether every figure arrived, and the doors are closed."""
    closed = {"enable_model_api": "false", "management_address": "http://127.0.0.1:8081"}
    return closed.items() <= found.items() and all(
        found[key] == str(value)
        for key, value in (
            ("grpc_inference_port", server.grpc),
            ("max_request_size", server.max_request),
            ("max_response_size", server.max_response),
        )
    )


def _templates() -> SandboxedEnvironment:
    return templating.environment("property", escaped)
