"""Loads and unloads models of the Triton beside us, over its HTTP API on loopback. Used by `profile` alone."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

from bert_build.failures import BuildError
from bert_operator.api.report import ExitCode

_LOAD_SECONDS: Final = 300
_ASK_SECONDS: Final = 10
_POLL_SECONDS: Final = 0.2
_START_SECONDS: Final = 120


class ServerError(Exception):
    """The server refused, in its own words."""


class Budget(Protocol):
    """What is left to wait."""

    @property
    def left(self) -> float:
        """Seconds."""


class Admin:
    """The repository API of one server."""

    def __init__(self, address: str) -> None:
        self._address = address

    def wait_until_live(self, budget: Budget) -> None:
        """Wait for the server's start.

        Raises:
            BuildError: it doesn't come up.
        """
        deadline = time.monotonic() + min(_START_SECONDS, max(1.0, budget.left))
        while True:
            try:
                if self._ask("GET", "/v2/health/live", _ASK_SECONDS)[0] == http.client.OK:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                message = f"The server beside the analyzer didn't start within {_START_SECONDS} s."
                raise BuildError("ServerNotStarted", message, "See the log of its container.", ExitCode.PASSING)
            time.sleep(_POLL_SECONDS)

    @contextmanager
    def loaded(self, model: str) -> Iterator[None]:
        """Load one model while the block runs.

        Raises:
            ServerError: the server can't load it, or is gone.
        """
        self._change(model, "load")
        try:
            yield
        finally:
            # What was measured counts, whatever becomes of the server now; the next load will tell.
            with suppress(ServerError):
                self._change(model, "unload")
                self._wait_until_gone(model)

    def _change(self, model: str, action: str) -> None:
        try:
            status, text = self._ask("POST", f"/v2/repository/models/{model}/{action}", _LOAD_SECONDS)
        except OSError as error:
            raise ServerError(f"the server is gone ({error}); its container may have run out of memory") from error
        if status != http.client.OK:
            raise ServerError(f"{action}: {_told(text)}")

    def _wait_until_gone(self, model: str) -> None:
        """Unloading goes on after the answer; the next model needs its memory."""
        deadline = time.monotonic() + _ASK_SECONDS
        while time.monotonic() < deadline:
            try:
                status, text = self._ask("POST", "/v2/repository/index", _ASK_SECONDS)
            except OSError:
                return
            busy = [one for one in json.loads(text) if one["name"] == model and one.get("state", "") != "UNAVAILABLE"]
            if status != http.client.OK or not any(one.get("state") for one in busy):
                return
            time.sleep(_POLL_SECONDS)

    def _ask(self, method: str, path: str, seconds: float) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._address, timeout=seconds)
        try:
            connection.request(method, path, body="{}" if method == "POST" else None)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()


def _told(text: str) -> str:
    try:
        found: Any = json.loads(text)["error"]
    except (ValueError, LookupError, TypeError):
        found = text
    return str(found)[:300]
