"""Batches that gather while the one before is worked on."""

import asyncio
import threading

import pytest

from serve.batching import Batcher


class Work:
    """Doubles numbers; waits at a gate, so that a test decides what is there when the next batch begins."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Semaphore(0)

    def __call__(self, items):
        self.batches.append(list(items))
        assert self.gate.acquire(timeout=30)
        if "all" in items:
            raise ValueError("all of them")
        return [KeyError(item) if isinstance(item, str) else 2 * item for item in items]


async def begun(batcher: Batcher, work: Work, *items):
    """Starts calls, the first of which is being worked on when the others come."""
    calls = [asyncio.create_task(batcher(items[0]))]
    while not work.batches:
        await asyncio.sleep(0.001)
    calls += [asyncio.create_task(batcher(item)) for item in items[1:]]
    await asyncio.sleep(0.05)  # far longer than the batcher waits: they must meet all the same
    return calls


def test_what_comes_while_the_model_is_busy_is_one_batch():
    async def scenario():
        work = Work()
        batcher = Batcher(work, max_batch=3, wait_s=0.001)
        calls = await begun(batcher, work, 1, 2, 3, 4, 5)
        assert batcher.waiting == 4
        work.gate.release(3)
        assert await asyncio.gather(*calls) == [2, 4, 6, 8, 10]
        assert work.batches == [[1], [2, 3, 4], [5]] and batcher.waiting == 0

    asyncio.run(scenario())


def test_calls_close_to_each_other_meet_in_the_first_batch():
    async def scenario():
        work = Work()
        work.gate.release()
        batcher = Batcher(work, max_batch=8, wait_s=0.2)
        assert await asyncio.gather(*(batcher(number) for number in range(5))) == [0, 2, 4, 6, 8]
        assert work.batches == [[0, 1, 2, 3, 4]]

    asyncio.run(scenario())


def test_an_error_is_its_own_caller_s_and_who_has_gone_is_left_out():
    async def scenario():
        work = Work()
        batcher = Batcher(work, max_batch=8, wait_s=0.001)
        first, wrong, gone, right = await begun(batcher, work, 1, "two", 3, 4)
        gone.cancel()
        work.gate.release(2)
        assert (await first, await right) == (2, 8)
        with pytest.raises(KeyError, match="two"):
            await wrong
        assert work.batches == [[1], ["two", 4]]

    asyncio.run(scenario())


def test_a_batch_that_fails_is_told_to_all_and_the_next_one_goes_on():
    async def scenario():
        work = Work()
        batcher = Batcher(work, max_batch=8, wait_s=0.001)
        first, *failed = await begun(batcher, work, 1, "all", 2)
        work.gate.release(3)
        assert await first == 2
        for call in failed:
            with pytest.raises(ValueError, match="all of them"):
                await call
        assert await batcher(5) == 10

    asyncio.run(scenario())
