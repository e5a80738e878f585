"""Where the time goes: seconds by stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of named stages; a stage inside of another is counted in both."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a ``with`` block, also one that ends in an error."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def lap(self) -> dict[str, float]:
        """Returns the seconds by stage since the last lap."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds
