"""The one error a user of `python -m images` sees; `__main__` prints it without a traceback."""


class ImagesError(Exception):
    """Says what failed and what to do about it."""
