"""Arrow tables as Parquet files, on a local disk or in an object store."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capricious.data import storage


def write_table(uri: str, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> bytes:
    """Writes rows as one Parquet file, all of it or nothing; the same rows give the same bytes, which it returns."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), buffer, compression="zstd")
    storage.write_atomic(uri, buffer.getvalue())
    return buffer.getvalue()


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Reads a Parquet file, or some of its columns; from a far store, only these are sent, or all by one request."""
    if columns is None:
        return pq.read_table(pa.BufferReader(storage.read(uri)))
    with storage.open_binary(uri) as file:
        return pq.read_table(file, columns=columns)


def part_numbers(folder: str) -> set[int]:
    """Returns the numbers of the files ``part-NNNNN…`` in a folder, by one listing; none where there is no folder."""
    files = storage.list_files(folder) if storage.exists(folder) else []
    return {int(found[1]) for uri in files if (found := re.search(r"/part-(\d+)[^/]*$", uri))}
