"""A listed collection on disk, cut into parts: what the workers of a batch job read instead of the whole listing."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from capricious.data import storage
from capricious.data.collections.source import SOURCE_SCHEMA, Source


def part_uri(out: str, shard: int) -> str:
    """Names the list of one shard's inputs in an output folder."""
    return storage.join(out, "plan", f"part-{shard:05d}.parquet")


def write_part(out: str, shard: int, sources: list[Source]) -> None:
    """Writes the inputs of one shard."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([source.to_row() for source in sources], SOURCE_SCHEMA), buffer)
    storage.write_atomic(part_uri(out, shard), buffer.getvalue())


def read_part(out: str, shard: int) -> list[Source]:
    """Reads the inputs of one shard."""
    rows = pq.read_table(io.BytesIO(storage.read(part_uri(out, shard)))).to_pylist()
    return [Source.from_row(row) for row in rows]
