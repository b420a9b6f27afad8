"""Renders the templates of servers whose configuration has no protobuf: sandboxed, strict, nothing unescaped."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment


class Escaped(str):
    """Text that has passed an environment's filter."""

    __slots__ = ()


@cache
def environment(filter_name: str, escape: Callable[[Any], str], *, numbers: bool = False) -> SandboxedEnvironment:
    """The templates, with the one filter through which every value must go.

    Args:
        filter_name: how templates call it.
        escape: makes a value what the file's syntax takes for that value.
        numbers: whether whole numbers may be printed without it.
    """

    def finished(value: object) -> object:
        """A template that forgets the filter fails in every test."""
        if isinstance(value, Escaped) or (numbers and type(value) is int):
            return value
        raise TypeError(f"a template prints {value!r} without the filter `{filter_name}`")

    made = SandboxedEnvironment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        finalize=finished,
        autoescape=False,  # not HTML: the filter escapes, and `finalize` sees to it that it is used
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters[filter_name] = lambda value: Escaped(escape(value))
    return made
