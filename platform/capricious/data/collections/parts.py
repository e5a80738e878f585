"""A listed collection on disk, cut into parts: what the workers of a batch job read instead of the whole listing."""

from __future__ import annotations

from capricious.data import storage
from capricious.data.collections.source import SOURCE_SCHEMA, Source
from capricious.data.tables import read_table, write_table


def part_uri(out: str, shard: int) -> str:
    """Names the list of one shard's inputs in an output folder."""
    return storage.join(out, "plan", f"part-{shard:05d}.parquet")


def write_part(out: str, shard: int, sources: list[Source]) -> None:
    """Writes the inputs of one shard."""
    write_table(part_uri(out, shard), (source.to_row() for source in sources), SOURCE_SCHEMA)


def read_uris(out: str, shard: int) -> list[str]:
    """Reads the addresses of one shard's inputs."""
    return read_table(part_uri(out, shard))["uri"].to_pylist()  # small, and whole by one request


def read_part(out: str, shard: int) -> list[Source]:
    """Reads the inputs of one shard."""
    return [Source.from_row(row) for row in read_table(part_uri(out, shard)).to_pylist()]
