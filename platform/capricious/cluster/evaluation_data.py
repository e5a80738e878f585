"""On which portraits bundles are scored: chosen from prepared datasets, and never from their own training unawares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import pyarrow as pa

from capricious.cluster.plan import select
from capricious.data import storage
from capricious.data.ahead import ahead
from capricious.data.prepared import read_manifest, read_shard
from capricious.data.records import Portrait, picture_names
from capricious.data.tables import read_table, write_table
from capricious.errors import CapriciousError
from capricious.model.bundle import Bundle


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, or a split of it (None: all), and what it shows: photograph or painting."""

    uri: str
    split: str | None
    medium: str


@dataclass(frozen=True)
class Chosen:
    """One portrait to measure: where it lies, and its id."""

    uri: str
    medium: str
    shard: int
    row: int
    id: str


CHOSEN_SCHEMA = pa.schema(
    [("uri", pa.string()), ("medium", pa.string()), ("shard", pa.int32()), ("row", pa.int32()), ("id", pa.string())]
)


def choose(datasets: Iterable[Dataset], limit: int) -> list[Chosen]:
    """Returns at most `limit` portraits (0: all) of each dataset, spread evenly over it; each picture's face once.

    Raises:
        CapriciousError: a dataset has no portraits in its split.
    """
    chosen: dict[str, Chosen] = {}
    for dataset in datasets:
        found: dict[str, Chosen] = {}
        shards = [entry["shard"] for entry in read_manifest(dataset.uri)["shards"]]
        tables = ahead(partial(read_shard, dataset.uri, "portraits", columns=["id", "split"]), shards)
        for shard, table in zip(shards, tables, strict=True):
            for row, values in enumerate(table.to_pylist()):
                id = values["id"]
                if dataset.split in (None, values["split"]) and id not in chosen:
                    found.setdefault(id, Chosen(dataset.uri, dataset.medium, shard, row, id))
        if not found:
            remedy = "choose another --split, or prepare it with a --test-share" if dataset.split else "see its rejects"
            raise CapriciousError(f"{dataset.uri} has no (new) portraits in split {dataset.split or 'all'!r}; {remedy}")
        entries = list(found.values())
        chosen.update((entry.id, entry) for entry in (select(entries, limit) if limit else entries))
    return list(chosen.values())


def write_chosen(out: str, shard: int, chosen: list[Chosen]) -> None:
    """Writes the portraits of one shard of the evaluation."""
    write_table(_part(out, shard), [vars(entry) for entry in chosen], CHOSEN_SCHEMA)


def read_chosen(out: str, shard: int) -> list[tuple[str, Portrait]]:
    """Reads the portraits of one shard of the evaluation, each with its medium."""
    entries = [Chosen(**row) for row in read_table(_part(out, shard)).to_pylist()]
    portraits = []
    for (uri, number), members in groupby(entries, lambda entry: (entry.uri, entry.shard)):
        wanted = list(members)
        rows = read_shard(uri, "portraits", number).take([entry.row for entry in wanted]).to_pylist()
        portraits += [(entry.medium, Portrait.from_row(row)) for entry, row in zip(wanted, rows, strict=True)]
    return portraits


def training_images(bundle: Bundle, name: str, chosen: list[Chosen], allowed: bool) -> int | None:
    """Returns how many of the portraits the bundle was trained on; None where it does not say.

    Raises:
        CapriciousError: some, and that is not allowed.
    """
    if bundle.training_pictures is None:
        return None
    seen = int(np.isin(picture_names(entry.id for entry in chosen), bundle.training_pictures).sum())
    if seen and not allowed:
        raise CapriciousError(
            f"{seen} of the {len(chosen)} portraits are among the training images of {name}: the score would be "
            "worth nothing. Measure it on others (--split test), or insist with --allow-training-images"
        )
    return seen


def _part(out: str, shard: int) -> str:
    return storage.join(out, "plan", f"part-{shard:05d}.parquet")
