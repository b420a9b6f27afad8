"""The two questions that Model Analyzer has for numba.cuda."""

from typing import Never


def is_available() -> bool:
    """Whether this container has a GPU."""
    return False


def list_devices() -> list[Never]:
    """Its GPUs."""
    return []
