"""Calls that meet in one batch: whatever came while the batch before was being worked on.

Ray's own `@serve.batch` closes a batch `batch_wait_timeout_s` after its first call, also while the model is busy. Under
load calls then queue up as batches of one: it gained nothing (benchmarks/results/serve.md). Here a batch is closed when
the model is free to take it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Batcher(Generic[Item, Outcome]):
    """Runs a function on batches of items, in a thread of its own, one batch at a time. For one event loop.

    Args:
        run: items → an outcome for each, in their order; an outcome that is an exception is raised to its own caller.
        max_batch: items in a batch, at most.
        wait_s: that a call which finds nothing going on waits for others.
    """

    def __init__(self, run: Callable[[list[Item]], Sequence[Outcome | Exception]], max_batch: int, wait_s: float):
        self._run = run
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self._worker = ThreadPoolExecutor(1, "batcher")
        self._working: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items that wait for a batch."""
        return len(self._waiting)

    async def __call__(self, item: Item) -> Outcome:
        """Returns the outcome of one item."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, outcome))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await outcome

    async def _work(self) -> None:
        await asyncio.sleep(self._wait_s)
        while batch := self._next():
            items = [item for item, _ in batch]
            try:
                outcomes = await asyncio.get_running_loop().run_in_executor(self._worker, self._run, items)
            except Exception as error:  # noqa: BLE001 (told to every caller of the batch)
                outcomes = [error] * len(items)
            for (_, waiting), outcome in zip(batch, outcomes, strict=True):
                if waiting.done():  # its caller has gone meanwhile
                    continue
                if isinstance(outcome, Exception):
                    waiting.set_exception(outcome)
                else:
                    waiting.set_result(outcome)

    def _next(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        batch = []
        while self._waiting and len(batch) < self._max_batch:
            item, outcome = self._waiting.popleft()
            if not outcome.done():  # else its caller has gone: nobody wants it any more
                batch.append((item, outcome))
        return batch
