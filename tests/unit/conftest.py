"""For all unit tests: properties have no time limit of their own (machines differ); pytest-timeout guards hangs."""

from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
