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
_BACK_SECONDS: Final = 120
"""A server that died is started again, later each time. The Job's deadline has room for it beyond the budget."""


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
        if not self._live_within(min(_START_SECONDS, max(1.0, budget.left))):
            message = f"The server beside the analyzer didn't start within {_START_SECONDS} s."
            raise BuildError("ServerNotStarted", message, "See the log of its container.", ExitCode.PASSING)

    def wait_until_back(self) -> None:
        """Make sure that the server is there; if it died, wait until it was started again.

        Raises:
            BuildError: it stays away. What was measured so far says nothing about the variants that are missing.
        """
        if not self._live_within(_BACK_SECONDS):
            message = f"The server beside the analyzer died and wasn't back within {_BACK_SECONDS} s."
            advice = "It is tried again; if it happens again, see the log of its container or raise server.resources."
            raise BuildError("ServerGone", message, advice, ExitCode.PASSING)

    def _live_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self._ask("GET", "/v2/health/live", _ASK_SECONDS)[0] == http.client.OK:
                    return True
            except OSError:
                pass
            if time.monotonic() > deadline:
                return False
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
            # What was measured counts, whatever becomes of the server now; who loads next waits for it.
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
        except http.client.HTTPException as error:
            raise ConnectionError(f"half an answer: {error!r}") from error
        finally:
            connection.close()


def _told(text: str) -> str:
    try:
        found: Any = json.loads(text)["error"]
    except (ValueError, LookupError, TypeError):
        found = text
    return str(found)[:300]
