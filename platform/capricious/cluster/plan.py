"""The plan of a batch job, on disk: which inputs, cut into which shards. The driver holds none of them in memory.

::

    out/plan/part-00000.parquet   the inputs of shard 0, with their labels
    out/_plan.json                what was asked for, and how many inputs and shards there are; written last
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from capricious.data import storage
from capricious.data.collections import Kind, Source, read_collection
from capricious.data.collections.parts import write_part
from capricious.errors import CapriciousError, ConfigError

PLAN = "_plan.json"
Item = TypeVar("Item")

COLLECTION = ("source", "kind", "rights_column", "limit")
"""Fields of a job that say what it works on."""


DONE_WITH_FAILURES = 3
"""Exit code of a batch in which some failed, no more than allowed."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What all batch jobs over a collection have in common."""

    source: str
    """Collection: a folder, a table, an archive, an s3:// or https:// address, or one picture."""
    out: str
    """Folder or s3:// address of the output. The same command again resumes."""
    kind: Kind = "auto"
    """How the collection is stored and labelled (docs/collections.md); auto looks."""
    rights_column: str = ""
    """Column of the collection's tables that states the rights in each picture; empty for rights or license."""
    limit: int = 0
    """Only this many pictures, spread evenly over the collection; 0 for all."""
    shard_size: int = 512
    """Largest number of pictures in a shard, the most that a crash can lose."""
    workers: int = 0
    """Ray actors, one CPU each; 0 for one per CPU that is there now."""
    failure_share: float = 0.5
    """Above this share of failed pictures the exit code is 1 instead of 3."""
    accept_failures: bool = False
    """Exit with 0 where it would be 3: for Ray's job server and KubeRay, to whom all but 0 is a failed job."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ConfigError(f"shard_size must be at least 1, found: {self.shard_size}")
        if self.limit < 0 or self.workers < 0:
            raise ConfigError("limit and workers must not be negative")
        if not 0.0 <= self.failure_share <= 1.0:
            raise ConfigError(f"failure_share must be in 0…1, found: {self.failure_share}")

    def sources(self) -> Iterator[Source]:
        """Lists the inputs, one after the other."""
        listing = read_collection(storage.absolute(self.source), self.kind, self.rights_column)
        return iter(select(list(listing), self.limit)) if self.limit else iter(listing)

    def looked_up(self, sources: Iterable[Source]) -> Iterable[Source]:
        """Adds to the inputs what the plan looks up for all of them once, so that no worker has to."""
        return sources


def select(sources: list[Item], limit: int) -> list[Item]:
    """Takes `limit` of a list, spread evenly (collections are often sorted by age), or all if there are fewer."""
    count = min(limit, len(sources))
    return [sources[i * len(sources) // count] for i in range(count)]


@dataclass(frozen=True)
class Plan:
    """What an output folder was started with: the content of `_plan.json`."""

    out: str
    fields: dict[str, Any]

    @property
    def pictures(self) -> int:
        """Number of inputs."""
        return self.fields["pictures"]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self.fields["shards"]

    @property
    def fingerprint(self) -> str:
        """Hash of all that determines the output; not of how the work is cut into shards."""
        determining = {name: value for name, value in self.fields.items() if name not in ("shards", "shard_size")}
        return hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()

    def size_of(self, shard: int) -> int:
        """Number of inputs in one shard."""
        return min(self.fields["shard_size"], self.pictures - shard * self.fields["shard_size"])


def read_plan(out: str) -> Plan:
    """Reads the plan of an output folder.

    Raises:
        CapriciousError: there is none.
    """
    out = storage.absolute(out)
    if not storage.exists(storage.join(out, PLAN)):
        raise CapriciousError(f"{out} has no {PLAN}; name the --out of a job that was started")
    return Plan(out, json.loads(storage.read(storage.join(out, PLAN))))


def make_plan(config: BatchConfig, asked: dict[str, Any], workers: int, together: int = 1) -> Plan:
    """Lists the collection into the plan of a new output folder, or returns the plan that an old one was started with.

    A folder that goes on works on what was listed at its start: listing again costs as much as the first time, and
    would stop the job for what came to the collection since, or for a store that does not answer today.

    Args:
        config: the job.
        asked: everything besides the listing that determines the output; must be the same for the same folder.
        workers: how many will share the work.
        together: how many inputs a worker takes at a time.

    Raises:
        CapriciousError: nothing to do, or the folder was started from something else; names what differs.
    """
    out = storage.absolute(config.out)
    asked = {**{name: getattr(config, name) for name in COLLECTION}, **asked}
    if plan := begun(out, asked):
        print(
            f"{out} goes on with the {plan.pictures} pictures that {config.source} had on {_day(out)}; "
            "what came or changed since needs another --out"
        )
        return plan
    _refuse_within(out, storage.absolute(config.source))
    listing = _Listing(config.sources())
    shards, size = _write_shards(out, config.looked_up(listing), workers, config.shard_size, together)
    if shards == 0:
        raise CapriciousError(f"{config.source} has no files")
    counted = {
        "pictures": listing.count,
        "rights_stated": listing.stated,
        "listing_sha256": listing.sha256,
        "shard_size": size,
        "shards": shards,
    }
    return begin(out, {**asked, **counted})


def begun(out: str, asked: dict[str, Any]) -> Plan | None:
    """Returns the plan that an output folder was started with; None for a new folder.

    Raises:
        CapriciousError: it was started with something else than is asked now; names what differs.
    """
    if not storage.exists(storage.join(out, PLAN)):
        return None
    plan = read_plan(out)
    asked = json.loads(json.dumps(asked))
    then = {name: plan.fields.get(name) for name in asked}
    if then != asked:
        name, first, now = _difference(then, asked)
        raise CapriciousError(
            f"{plan.out} was started with another {name} ({_short(first)}, now {_short(now)}); "
            "run the first command again to finish it, or choose another --out"
        )
    return plan


def begin(out: str, fields: dict[str, Any]) -> Plan:
    """Writes the plan of a new output folder, whose parts are there."""
    text = json.dumps(fields, indent=2)
    storage.write_atomic(storage.join(out, PLAN), text.encode())
    return Plan(out, json.loads(text))


def _day(out: str) -> str:
    """Returns the day on which an output folder was started."""
    filesystem, path = storage.locate(storage.join(out, PLAN))
    return f"{filesystem.modified(path):%Y-%m-%d}"


def _refuse_within(out: str, source: str) -> None:
    if f"{out}/".startswith(f"{source.rstrip('/')}/"):
        raise CapriciousError(
            f"{out} lies in the collection {source}: what is written there would be taken for pictures; "
            "choose an --out beside it"
        )


def _difference(then: dict[str, Any], now: dict[str, Any]) -> tuple[str, Any, Any]:
    """Returns the first field in which two mappings differ, such as annotator.landmarks, and its two values."""
    name = next(name for name in now if then.get(name) != now[name])
    first, second = then.get(name), now[name]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        below, first, second = _difference(first, second)
        return f"{name}.{below}", first, second
    return name, first, second


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"


class _Listing:
    """Counts and fingerprints what passes (addresses and labels, not the pictures' bytes), and statements of rights."""

    def __init__(self, sources: Iterable[Source]):
        self._sources = sources
        self._hash = hashlib.sha256()
        self.count = 0
        self.stated = 0

    def __iter__(self) -> Iterator[Source]:
        for source in self._sources:
            self._hash.update(json.dumps(source.to_row(), sort_keys=True).encode() + b"\n")
            self.count += 1
            self.stated += bool(source.license)
            yield source

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def _write_shards(out: str, listing: Iterable[Source], workers: int, largest: int, together: int) -> tuple[int, int]:
    """Writes the plan's parts; returns how many, and the shard size.

    A small collection is cut finer, so that each worker has several shards and none idles at the end.
    """
    sources = iter(listing)
    head = list(islice(sources, 4 * workers * largest))
    size = shard_size(len(head), workers, largest, together)
    sources, shards = chain(head, sources), 0
    del head
    while part := list(islice(sources, size)):
        write_part(out, shards, part)
        shards += 1
    return shards, size


def shard_size(inputs: int, workers: int, largest: int, together: int = 1) -> int:
    """Picks a shard size that gives every worker four shards or more, and is not above `largest`.

    Sizes above `together` are multiples of it, so that a shard's last inputs fill a group as well.
    """
    size = max(1, min(largest, math.ceil(inputs / (workers * 4))))
    return size - size % together if size > together else size


def exit_code(inputs: int, made: int, failed: int, failure_share: float) -> int:
    """Returns 0 when all inputs went well, 3 when some failed, 1 when more than `failure_share` or all did."""
    if failed == 0:
        return 0
    return DONE_WITH_FAILURES if made and failed <= failure_share * inputs else 1
