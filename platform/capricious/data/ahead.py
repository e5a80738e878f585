"""Many small files of a far store, in order: waiting is all that each costs, so they are waited for together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 16


def ahead(do: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields do(item) of each item, in order, while threads do the next ones: no more than THREADS, to bound memory.

    Raises:
        Exception: as `do` did, in its item's turn.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        for item in items:
            waiting.append(threads.submit(do, item))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
