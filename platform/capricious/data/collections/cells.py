"""Pictures that lie in a column of a Parquet file, in small memory and fast when asked for in order."""

from __future__ import annotations

import threading
from collections import OrderedDict

import pyarrow as pa
import pyarrow.parquet as pq

from capricious.data import storage
from capricious.errors import Rejection

BATCH = 8
"""Rows that are decoded at a time."""
KEPT = 3
"""Batches that are kept. Threads that read ahead ask a little out of order; going back decodes a row group again."""
OPEN_FILES = 4
BUFFER = 2**20
"""Bytes of a column that are held while it streams; without it Arrow loads the whole row group."""


class _Cursor:
    """A place in one column of one file, moved forward from batch to batch."""

    def __init__(self, uri: str, column: str):
        self._lock = threading.Lock()
        self._uri, self._column = uri, column
        self._batches: OrderedDict[int, pa.RecordBatch] = OrderedDict()  # first row → batch; the newest last
        self._open()

    def _open(self) -> None:
        self._file = pq.ParquetFile(storage.open_binary(self._uri), buffer_size=BUFFER, pre_buffer=False)
        metadata = self._file.metadata
        self._starts = [0]
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._group = -1  # none; that of the stream
        self._next = 0
        self._stream = iter(())

    def read(self, row: int) -> bytes | None:
        with self._lock:
            try:
                batch = self._batch_of(row)
            except (pa.ArrowException, OSError):  # a stream that broke off is spent, and what broke it may have passed
                self._open()
                batch = self._batch_of(row)
        value = batch[1].column(0)[row - batch[0]].as_py()
        # "image.bytes" comes back as a struct of that one field
        return value.get(self._column.partition(".")[2]) if isinstance(value, dict) else value

    def _batch_of(self, row: int) -> tuple[int, pa.RecordBatch]:
        while (batch := self._holding(row)) is None:
            self._advance_towards(row)
        return batch

    def _holding(self, row: int) -> tuple[int, pa.RecordBatch] | None:
        for start, batch in self._batches.items():
            if start <= row < start + batch.num_rows:
                return start, batch
        return None

    def _advance_towards(self, row: int) -> None:
        group = next((g for g in range(len(self._starts) - 1) if row < self._starts[g + 1]), None)
        if group is None or row < 0:
            raise OSError(f"there is no row {row}; the file has {self._starts[-1]}")
        if group != self._group or row < self._next:
            self._group, self._next = group, self._starts[group]
            self._stream = self._file.iter_batches(
                batch_size=BATCH, row_groups=[group], columns=[self._column], use_threads=False
            )
        self._group = -1  # unless it comes, the stream has to be started anew
        batch = next(self._stream, None)
        self._group = group
        if batch is None:
            raise OSError(f"row group {group} ends before row {row}")
        self._batches[self._next] = batch
        self._next += batch.num_rows
        while len(self._batches) > KEPT:
            self._batches.popitem(last=False)


_cursors: OrderedDict[tuple[str, str], _Cursor] = OrderedDict()
_cursors_lock = threading.Lock()


def read_cell(uri: str, row: int, column: str) -> bytes:
    """Returns the bytes in one cell, for example of the column ``image`` or ``image.bytes``.

    Files stay open, a few of them, so that the next rows need not decode the ones before again.

    Raises:
        Rejection: the cell is empty.
        OSError: the file is not there or is damaged, or could not be read twice.
    """
    try:
        with _cursors_lock:
            cursor = _cursors.pop((uri, column), None) or _Cursor(uri, column)
            _cursors[uri, column] = cursor
            while len(_cursors) > OPEN_FILES:
                _cursors.popitem(last=False)
        data = cursor.read(row)
    except pa.ArrowException as error:
        raise OSError(f"{uri}: {error}") from error
    if data is None:
        raise Rejection("read", "empty", f"row {row} has nothing in column {column}")
    return data
