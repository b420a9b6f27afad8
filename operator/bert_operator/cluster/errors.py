"""The one way in which a call to the API server fails."""

from typing import Final, NamedTuple

REFUSALS: Final = frozenset({400, 403, 404, 413, 422})
"""Answers that the same request will get again until somebody changes something."""


SERVER_ERROR: Final = 500


class Cause(NamedTuple):
    """One cause in the details of a Status object."""

    field: str = ""
    reason: str = ""


class ApiError(Exception):
    """The API server refused a request, or could not be asked."""

    expected = True
    """It is the world's doing, not a mistake of ours: logged in one line."""

    def __init__(
        self,
        *,
        status: int,
        reason: str,
        message: str,
        what: str = "",
        retry_after: float | None = None,
        causes: frozenset[Cause] = frozenset(),
    ) -> None:
        super().__init__(f"{what}: {reason}: {message}" if what else f"{reason}: {message}")
        self.status = status
        """HTTP status; 0 if there was no answer."""
        self.reason = reason
        """Reason of the Status object, e.g. Conflict."""
        self.message = message
        self.what = what
        """What was asked, e.g. `apply Service demo`."""
        self.retry_after = retry_after
        """Seconds the server asks us to wait."""
        self.causes = causes
        """What it was refused for."""

    @property
    def fields(self) -> frozenset[str]:
        """Fields of the object that it was refused for."""
        return frozenset(cause.field for cause in self.causes)

    @property
    def namespace_ends(self) -> bool:
        """Whether the namespace is being deleted: nothing new is let in, and everything in it goes."""
        return any(cause.reason == "NamespaceTerminating" for cause in self.causes)

    @property
    def unanswered(self) -> bool:
        """Whether nobody knows if it was carried out: no answer came, or the server's own failure."""
        return self.status == 0 or self.status >= SERVER_ERROR

    @property
    def refused(self) -> bool:
        """Whether a user has to change something."""
        return self.status in REFUSALS
