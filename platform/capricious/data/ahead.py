"""Many small files of a far store, in order: waiting is all that each costs, so they are waited for together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

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


@contextmanager
def behind(do: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Gives a function that does as `do` in threads, at most THREADS at a time; all is done when the block has ended.

    Raises:
        Exception: as `do` did, in a later call or at the end of the block.
    """
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:

        def later(*arguments: Any) -> None:
            if len(waiting) == THREADS:
                waiting.popleft().result()
            waiting.append(threads.submit(do, *arguments))

        yield later
        for done in waiting:
            done.result()
