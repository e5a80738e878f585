"""Batch work in shards: each is done once, alone, and leaves finished files; the rest is running it.

A shard is the unit of work, of progress and of loss: kill anything at any moment, run the same command
again, and at most the shards that were under way are done anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

import cv2
import ray.data
from tqdm import tqdm

from capricious.annotate.stopwatch import Stopwatch
from capricious.cluster import batch_metrics
from capricious.cluster.begun import Begun, forget
from capricious.cluster.plan import Plan
from capricious.cluster.reading import Reader
from capricious.data.collections import Source
from capricious.data.collections.parts import read_part
from capricious.data.records import reject_row
from capricious.errors import REMEDY, CapriciousError, Rejection

Item = TypeVar("Item")
Made = TypeVar("Made")
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class ShardWorker:
    """Base of what a Ray Data actor does with one shard of sources. Subclasses say what `do` one source means."""

    KIND = ""
    """What the job is called in its metrics."""
    run = ""
    """Names the run of the job to which the worker belongs; empty where it stands alone."""
    one_by_one = False
    """Whether the worker's forerunner died over this shard: who was it? Subclasses then put no pictures together."""

    def __init__(self, out: str):
        self.out = out
        self.shard = -1
        self.reader = Reader()
        self.stopwatch = Stopwatch()
        cv2.setNumThreads(1)  # an actor has one CPU; threads of many actors would wait for each other

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ray Data's entry: a batch is the number of one shard; returns its counts as a batch of one row."""
        shard = self.shard = int(batch["shard"][0])
        started = time.perf_counter()
        items = self.items(shard)
        counts = self.run_shard(shard, items)
        failed = min(counts["failed"], len(items))  # verify counts problems, of which a picture may have several
        batch_metrics.shard(self.KIND, len(items) - failed, failed, time.perf_counter() - started)
        self.lap()
        return {"shard": [shard], **{name: [count] for name, count in counts.items()}}

    def items(self, shard: int) -> list[Any]:
        """Returns what a shard consists of: sources, unless a subclass works on something else."""
        return read_part(self.out, shard)

    def run_shard(self, shard: int, items: list[Any]) -> dict[str, Any]:
        """Does one shard and writes its files; returns counts: "done", "failed" (at least)."""
        raise NotImplementedError

    def lap(self) -> dict[str, float]:
        """Returns the seconds by stage since the last lap, having counted them."""
        seconds = self.stopwatch.lap()
        batch_metrics.stages(self.KIND, seconds)
        return seconds

    def attempt(
        self, sources: Sequence[Source], do: Callable[[Source, bytes], Result]
    ) -> Iterator[tuple[Source, Result | dict[str, str]]]:
        """Reads each source and does it; yields its result, or its row for the rejects table."""

        def read_and_do(source: Source, data: Future[bytes]) -> Result:
            with self.stopwatch.stage("read"):
                content = self.reader.content(source, data, sources)
            return do(source, content)

        for source, data in self._read(sources):
            yield source, tried(source.uri, read_and_do, source, data)

    def _read(self, sources: Sequence[Source]) -> Iterator[tuple[Source, Future[bytes]]]:
        """Reads ahead; but one by one, noting each, where a worker died over this shard."""
        begun = Begun(self.out, self.shard, self.run)
        self.one_by_one = bool(self.run) and begun.start()
        if self.one_by_one:
            yield from self.reader.ahead(map(begun.take, sources), count=0)
            begun.put_down()
        else:
            yield from self.reader.ahead(sources)


def tried(uri: str, do: Callable[..., Result], *arguments: Any) -> Result | dict[str, str]:
    """Calls do(*arguments) on behalf of one picture; returns its result, or the picture's row for the rejects table.

    Raises:
        CapriciousError: what happened is not this picture's fault but the machine's, e.g. a full disk.
    """
    try:
        with bugs_as_rejections(uri):
            return do(*arguments)
    except Rejection as rejection:
        return reject_row(uri, rejection)
    except OSError as error:
        raise CapriciousError(f"{error}; {REMEDY}") from error


def tried_together(
    items: Sequence[Item],
    uri_of: Callable[[Item], str],
    make: Callable[[Sequence[Item]], Sequence[Made]],
    finish: Callable[[Item, Made], Result],
) -> Iterator[Result | dict[str, str]]:
    """Makes something of some pictures at once and finishes each alone; yields of each the result, or its reject's row.

    Where they failed together, whose fault it was shows when it is made of each alone.
    """
    together = tried(uri_of(items[0]), make, items)

    def one(number: int) -> Result:
        item = items[number]
        return finish(item, make([item])[0] if isinstance(together, dict) else together[number])

    for number, item in enumerate(items):
        yield tried(uri_of(item), one, number)


@contextmanager
def bugs_as_rejections(uri: str) -> Iterator[None]:
    """Turns what nobody expected into the rejection of one picture: a bug must never take the others down.

    Missing weights, a full disk or a store that is away are not this picture's fault: going on would reject all the
    others, too.
    """
    try:
        yield
    except (CapriciousError, OSError):
        raise
    except Exception as error:
        log.exception("%s", uri, extra={"picture": uri})
        detail = f"unexpected: {error}; please report it, with the traceback in the worker's log"
        raise Rejection("internal", type(error).__name__, detail) from error


class Told:
    """What Ray runs: a worker whose errors that are meant for people come back as text. Ray would bury their sentence
    under a page of its own, and hides their type.

    Args:
        worker, arguments: as of run_shards().
        run: names the run.
    """

    def __init__(self, worker: type[ShardWorker], arguments: dict[str, Any], run: str):
        self._error = ""
        try:
            self._worker = worker(**arguments)
            self._worker.run = run
        except CapriciousError as error:
            self._error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As ShardWorker, with "error": a text, or nothing."""
        if not self._error:
            try:
                return {**self._worker(batch), "error": [""]}
            except CapriciousError as error:
                self._error = str(error)
            except OSError as error:
                self._error = f"{error}; {REMEDY}"
        return {"shard": [int(batch["shard"][0])], "error": [self._error]}


def run_shards(
    worker: type[ShardWorker],
    arguments: dict[str, Any],
    plan: Plan,
    todo: list[int],
    workers: int,
    what: str,
    *,
    gpus: float = 0,
    then: Callable[[dict[str, Any]], None] = lambda counts: None,
) -> None:
    """Runs shards on a fixed pool of actors, showing rate, time left and failures.

    Args:
        worker: the actor's class; `arguments` go to its constructor.
        plan: the plan to which the shards belong.
        todo: numbers of the shards to do.
        workers: number of actors, one CPU each. A pool of fixed size: Ray's growing pools get stuck at one.
        what: verb for the progress bar, e.g. "prepare".
        gpus: of each actor.
        then: is called with the counts of each shard as it ends.

    Raises:
        CapriciousError: as a worker's constructor or run_shard did.
    """
    if not todo:
        return
    if len(todo) < plan.shards:
        print(f"{plan.shards - len(todo)} of {plan.shards} shards are done already")
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts pictures, not blocks
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # its plans and logs of blocks are no user's
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it would regret the bars
    done = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo)).map_batches(
        Told,
        fn_constructor_args=(worker, arguments, uuid4().hex),
        batch_size=1,
        num_cpus=1,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(todo))),
    )
    failed = 0
    left = sum(map(plan.size_of, todo))
    with tqdm(total=left, desc=what, unit="picture", smoothing=0.1) as bar:
        for row in done.iter_rows():
            if row["error"]:
                raise CapriciousError(row["error"])
            failed += row["failed"]
            then(row)
            bar.update(plan.size_of(row["shard"]))
            left -= plan.size_of(row["shard"])
            batch_metrics.left(worker.KIND, left)
            bar.set_postfix(failed=failed)
    forget(plan.out)
