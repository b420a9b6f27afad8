"""One plain line per step on stderr, with the seconds since the program started; stdout stays free for results."""

import sys
import time

_start = time.monotonic()


def step(text: str) -> None:
    """Tell the user what is about to happen."""
    print(f"[{time.monotonic() - _start:6.1f}s] {text}", file=sys.stderr, flush=True)
