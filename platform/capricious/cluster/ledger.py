"""The ledger of a render: one row for each file that the plan asks for, and what became of it.

::

    out/failed/part-00000           empty; its presence says that there are failed rows in shard 0
    out/ledger/part-00000.parquet   the rows of shard 0, written last; its presence says that the shard is done

The rows follow from the plan alone (`planned`): every portrait has every product. So whoever reads plan and ledger can
tell that nothing is missing and nothing is there twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from capricious.cluster.plan import Plan
from capricious.data import storage
from capricious.data.ahead import ahead
from capricious.data.collections import Source
from capricious.data.collections.parts import read_part
from capricious.data.tables import part_numbers, read_table, write_table
from capricious.errors import Rejection

LEDGER_SCHEMA = pa.schema(
    [
        ("render_id", pa.string()),  # the same in every run of the same plan
        ("uri", pa.string()),
        ("product", pa.string()),  # a variant of the sweep, or "sheet", "animation", …
        ("status", pa.string()),  # ok | failed | skipped
        ("stage", pa.string()),  # where it failed or why it was skipped; null when ok
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),  # 0 when skipped
        ("file", pa.string()),  # below OUT; null unless ok
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("faces", pa.int32()),
        ("extrapolated", pa.bool_()),  # shows an age outside of those that the bundle has learnt; null unless ok
        ("source_sha256", pa.string()),
        ("rights", pa.string()),
    ]
)
Row = dict[str, Any]

LAYOUT = 2
"""Of OUT: how folders are named and what the ledger says. A run that was started with another is not continued."""


def render_id(plan: Plan, uri: str, product: str) -> str:
    """Names a row: 32 hexadecimal digits that depend on the plan's fingerprint, the portrait and the product."""
    return hashlib.sha256(json.dumps([plan.fingerprint, uri, product]).encode()).hexdigest()[:32]


def planned(plan: Plan, shard: int) -> Iterator[tuple[Source, list[tuple[str, str]]]]:
    """Yields each portrait of a shard with the render_id and product of each of its rows."""
    for source in read_part(plan.out, shard):
        yield source, [(render_id(plan, source.uri, product), product) for product in plan.fields["products"]]


def rows_of(
    plan: Plan, source: Source, status: str, attempts: int, rejection: Rejection | None = None, **facts: Any
) -> list[Row]:
    """Returns the rows of a portrait that ended as one, e.g. all failed; `facts` holds for each of them."""
    why = {} if rejection is None else dict(zip(("stage", "reason", "detail"), rejection.__reduce__()[1], strict=True))
    return [
        {
            "render_id": render_id(plan, source.uri, product),
            "uri": source.uri,
            "product": product,
            "status": status,
            "attempts": attempts,
            "rights": source.license or None,
            **why,
            **facts,
        }
        for product in plan.fields["products"]
    ]


def part_uri(out: str, shard: int) -> str:
    """Names one shard of the ledger."""
    return storage.join(out, "ledger", f"part-{shard:05d}.parquet")


def _failed_uri(out: str, shard: int) -> str:
    return storage.join(out, "failed", f"part-{shard:05d}")


def write_part(out: str, shard: int, rows: Sequence[Row]) -> None:
    """Writes one shard of the ledger, all of it or nothing."""
    failed = any(row["status"] == "failed" for row in rows)
    if failed:  # before the rows: what a kill leaves behind may name too many shards, but never too few
        storage.write_atomic(_failed_uri(out, shard), b"")
    write_table(part_uri(out, shard), rows, LEDGER_SCHEMA)
    if not failed:
        storage.remove(_failed_uri(out, shard))


def read_rows(out: str, shard: int) -> list[Row]:
    """Reads one shard of the ledger."""
    return read_table(part_uri(out, shard)).to_pylist()


def done_shards(plan: Plan) -> list[int]:
    """Lists the shards whose ledger is written."""
    return sorted(part_numbers(storage.join(plan.out, "ledger")))


def failed_shards(plan: Plan) -> list[int]:
    """Lists the shards that have failed rows."""
    return sorted(part_numbers(storage.join(plan.out, "failed")))


def portraits(out: str, shards: int | Sequence[int]) -> Iterator[list[Row]]:
    """Yields the rows of each portrait, in the order of the plan; a few shards are in memory, read ahead."""
    for part in ahead(partial(read_rows, out), range(shards) if isinstance(shards, int) else shards):
        rows: list[Row] = []
        for row in part:
            if rows and rows[0]["uri"] != row["uri"]:
                yield rows
                rows = []
            rows.append(row)
        if rows:
            yield rows
