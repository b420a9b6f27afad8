"""For all unit tests: properties have no time limit of their own (machines differ); pytest-timeout guards hangs."""

import gc

from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """What is imported stays, and was looked through again and again: a seventh of the run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)
