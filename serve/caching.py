"""A cache bounded by the memory of what it holds; the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from serve import metrics

Value = TypeVar("Value")


class SizedCache(Generic[Value]):
    """Least-recently-used cache of at most `max_bytes`; what is larger than that is not kept. Not thread-safe.

    Args:
        name: for the metrics.
        max_bytes: 0 keeps nothing.
    """

    def __init__(self, name: str, max_bytes: int):
        self.name = name
        self.max_bytes = max_bytes
        self.bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        """Returns what is kept under a key, or None."""
        found = self._kept.get(key)
        metrics.lookup(self.name, found is not None)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keeps a value that takes `size` bytes."""
        if key in self._kept:
            self.bytes -= self._kept.pop(key)[1]
        if size > self.max_bytes:
            return
        self._kept[key] = (value, size)
        self.bytes += size
        while self.bytes > self.max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self.bytes -= freed
