"""Batch work in shards: each is done once, alone, and leaves finished files; the rest is running it.

A shard is the unit of work, of progress and of loss: kill anything at any moment, run the same command
again, and at most the shards that were under way are done anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import ray.data
from tqdm import tqdm

from capricious.data import storage
from capricious.data.collections import Source
from capricious.data.records import reject_row
from capricious.errors import CapriciousError, Rejection

PLAN = "_plan.json"
Result = TypeVar("Result")
log = logging.getLogger(__name__)


def shards_of(sources: Sequence[Source], shard_size: int) -> list[list[Source]]:
    """Cuts a collection into shards of at most `shard_size`, in order."""
    return [list(sources[i : i + shard_size]) for i in range(0, len(sources), shard_size)]


def choose_shard_size(inputs: int, workers: int, largest: int) -> int:
    """Picks a shard size that gives every worker several shards, so that none idles at the end."""
    return max(1, min(largest, math.ceil(inputs / (workers * 4))))


def fix_plan(out: str, plan: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Writes what was asked for into a new output folder, or compares with what an old one was made from.

    Args:
        out: output folder.
        plan: everything that determines the output; must be the same for the same folder.
        chosen: what was chosen at the first start and holds for the folder from then on (the shard size).

    Returns:
        `plan` and `chosen` as one, the chosen part as it was at the first start.

    Raises:
        CapriciousError: the folder was made from something else; names the field that differs.
    """
    uri = storage.join(out, PLAN)
    plan = json.loads(json.dumps(plan))
    if not storage.exists(uri):
        whole = {**plan, **chosen}
        storage.write_atomic(uri, json.dumps(whole, indent=2).encode())
        return whole
    earlier = json.loads(storage.read(uri))
    for name, value in plan.items():
        if earlier.get(name) != value:
            raise CapriciousError(
                f"{out} was started with another {name} ({_short(earlier.get(name))}, now {_short(value)}); "
                "run the first command again to finish it, or choose another --out"
            )
    return earlier


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"


def exit_code(inputs: int, made: int, failed: int, failure_share: float) -> int:
    """Returns 0 when all inputs went well, 3 when some failed, 1 when more than `failure_share` or all did."""
    if failed == 0:
        return 0
    return 3 if made and failed <= failure_share * inputs else 1


def listing_sha256(sources: Sequence[Source]) -> str:
    """Fingerprint of a collection's listing: addresses and labels, not the pictures' bytes."""
    return hashlib.sha256("\n".join(map(repr, sources)).encode()).hexdigest()


class ShardWorker:
    """Base of what a Ray Data actor does with one shard of sources. Subclasses say what `do` one source means.

    Reading runs ahead in threads while the actor computes, so that a slow store does not leave a CPU waiting.
    """

    READ_AHEAD = 8

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ray Data's entry: a batch is one shard; returns its counts as a batch of one row."""
        shard, sources = int(batch["shard"][0]), pickle.loads(batch["sources"][0])
        counts = self.run_shard(shard, sources)
        return {"shard": [shard], **{name: [count] for name, count in counts.items()}}

    def run_shard(self, shard: int, sources: list[Source]) -> dict[str, int]:
        """Does one shard and writes its files; returns counts: "done", "failed" (at least)."""
        raise NotImplementedError

    def attempt(
        self, sources: Iterable[Source], do: Callable[[Source, bytes], Result]
    ) -> Iterator[tuple[Source, Result | dict[str, str]]]:
        """Reads each source and does it; yields its result, or its row for the rejects table."""
        for source, data in self._read_ahead(sources):
            try:
                yield source, do(source, _content(data))
            except Rejection as rejection:
                yield source, reject_row(source.uri, rejection)
            except (CapriciousError, OSError):
                raise  # not this picture's fault: missing weights, a full disk; going on would reject all the others
            except Exception as error:  # a bug: one picture must never take the others down
                log.exception("%s", source.uri)
                detail = f"unexpected: {error}; please report it, with the traceback in the worker's log"
                yield source, reject_row(source.uri, Rejection("internal", type(error).__name__, detail))

    def _read_ahead(self, sources: Iterable[Source]) -> Iterator[tuple[Source, Future[bytes]]]:
        waiting: deque[tuple[Source, Future[bytes]]] = deque()
        with ThreadPoolExecutor(self.READ_AHEAD) as threads:
            for source in sources:
                waiting.append((source, threads.submit(storage.read, source.uri)))
                if len(waiting) > self.READ_AHEAD:
                    yield waiting.popleft()
            yield from waiting


def _content(data: Future[bytes]) -> bytes:
    try:
        return data.result()
    except FileNotFoundError as error:
        raise Rejection("read", "not-found", "there is no such file") from error
    except OSError as error:
        raise Rejection("read", "unreadable", str(error)) from error


def run_shards(
    worker: type[ShardWorker], arguments: dict[str, Any], todo: dict[int, list[Source]], workers: int, what: str
) -> None:
    """Runs shards on a fixed pool of actors, showing rate, time left and failures.

    Args:
        worker: the actor's class; `arguments` go to its constructor.
        todo: shard number → its sources.
        workers: number of actors, one CPU each. A pool of fixed size: Ray's growing pools get stuck at one.
        what: noun for the progress bar, e.g. "pictures".
    """
    if not todo:
        return
    rows = [{"shard": shard, "sources": pickle.dumps(sources)} for shard, sources in todo.items()]
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts pictures, not blocks
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        worker,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
    )
    failed = 0
    with tqdm(total=sum(map(len, todo.values())), desc=what, unit="picture", smoothing=0.1) as bar:
        for row in done.iter_rows():
            failed += row["failed"]
            bar.update(len(todo[row["shard"]]))
            bar.set_postfix(failed=failed)
