"""Structured logs: one JSON object a line, for kopf's messages and ours. `handlers` switches them on at start.

Objects, headers and environment never go into a message, so no secret can.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

FORMAT_ENV: Final = "BERTOPS_LOG_FORMAT"
TEXT: Final = "[%(asctime)s] %(levelname)-7s %(name)s: %(message)s"

_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)
_ids: Final = count(1)


@contextmanager
def about(namespace: str, name: str) -> Iterator[None]:
    """Give every message inside the block the BertDeployment's name and the number of this reconcile."""
    token = _about.set({"namespace": namespace, "name": name, "reconcile": next(_ids)})
    try:
        yield
    finally:
        _about.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one message."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_of_kopf(record),
            **(_about.get() or {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure() -> None:
    """Replace whatever handler the command line installed; its level stays. BERTOPS_LOG_FORMAT=text is for people."""
    handler = logging.StreamHandler(sys.stderr)
    plain = os.environ.get(FORMAT_ENV, "json") == "text"
    handler.setFormatter(logging.Formatter(TEXT) if plain else JsonFormatter())
    logging.getLogger().handlers[:] = [handler]


def _of_kopf(record: logging.LogRecord) -> dict[str, Any]:
    """What kopf says a message is about."""
    reference = getattr(record, "k8s_ref", None)
    if not isinstance(reference, dict):
        return {}
    return {key: reference[key] for key in ("kind", "namespace", "name") if reference.get(key)}
