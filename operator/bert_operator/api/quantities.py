"""Kubernetes quantities as numbers and back. Servers size threads and memory with them; nothing here is guessed."""

from decimal import Decimal
from typing import Final

_SUFFIXES: Final = {
    # Users can't write n, u, P and E, but the API server writes 2048Ti as 2Pi.
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
MEBIBYTE: Final = 2**20


def parse(quantity: str) -> Decimal:
    """The number that a quantity stands for: `500m` is 0.5, `2Gi` is 2147483648.

    Raises:
        ValueError: it isn't a quantity as the API takes them here.
    """
    number = quantity.rstrip("numkKMGTPEi")
    suffix = quantity[len(number) :]
    if suffix not in _SUFFIXES or not number.replace(".", "", 1).isdecimal() or not number.isascii():
        raise ValueError(f"{quantity!r} is not a quantity: write e.g. 500m, 2, 512Mi or 2Gi")
    return Decimal(number) * _SUFFIXES[suffix]


def mebibytes(size: int) -> str:
    """A size in bytes as a quantity, rounded up to whole MiB."""
    return f"{-(-size // MEBIBYTE)}Mi"


def whole(size: Decimal) -> str:
    """A size in bytes as people write it: whole GiB if that is exact, else MiB, rounded up."""
    count, rest = divmod(int(size), 1024 * MEBIBYTE)
    return mebibytes(int(size)) if rest else f"{count}Gi"
