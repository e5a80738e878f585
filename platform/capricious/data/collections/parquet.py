"""Parquet files of pictures, or of the addresses of pictures, with labels in other columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capricious.data import storage
from capricious.data.collections.files import Checklist, Files, suffix
from capricious.data.collections.labels import LABEL_COLUMNS, row_attributes, row_license
from capricious.data.collections.source import Source
from capricious.data.collections.table import row_source
from capricious.errors import CapriciousError, StoreFault

PICTURE_COLUMNS = ("image", "bytes")
ADDRESS_COLUMNS = ("file", "uri")
ROWS = 1024
"""Rows of labels that are in memory at a time."""


def read_parquet(files: Files) -> Iterator[Source]:
    """Yields the rows of all Parquet files, in their order, then the files that none of them names, unlabelled.

    Pictures are the bytes in a column ``image`` or ``bytes``, which may be a struct with a field ``bytes`` (as
    Hugging Face's datasets write it); they are read in place. Without such a column, ``file`` or ``uri`` says where
    they are. Labels: as in labels.csv; integers of a Hugging Face ClassLabel count as their names.

    Raises:
        CapriciousError: no Parquet file, or one that has none of these columns.
    """
    tables = [name for name in files.names if suffix(name) == ".parquet"]
    if not tables:
        raise CapriciousError(f"{files.uri} has no .parquet file")
    return _read_tables(files, tables)


def _read_tables(files: Files, tables: list[str]) -> Iterator[Source]:
    checklist = Checklist(files.names)
    for table in tables:
        checklist.tick(table)
    for table in tables:
        row = 0
        try:
            with storage.open_binary(table) as stream:
                for source in _read_table(files, table, pq.ParquetFile(stream), checklist):
                    row += 1
                    if source is not None:
                        yield source
        except StoreFault:
            raise
        except (pa.ArrowException, OSError) as error:
            yield files.source(table).refuse("bad-parquet", f"its rows from {row} on cannot be read: {error}")
    for name in checklist.unticked():
        yield files.source(name)


def _read_table(files: Files, table: str, parquet: pq.ParquetFile, checklist: Checklist) -> Iterator[Source | None]:
    schema = parquet.schema_arrow
    picture = _picture_column(schema)
    wanted = [*LABEL_COLUMNS, *files.license_columns, *([] if picture else ADDRESS_COLUMNS)]
    if picture is None and not set(ADDRESS_COLUMNS) & set(schema.names):
        raise CapriciousError(
            f"{table} needs pictures in a column {' or '.join(PICTURE_COLUMNS)}, or addresses in a column "
            f"{' or '.join(ADDRESS_COLUMNS)}; found: {', '.join(schema.names)}"
        )
    class_names = _class_names(schema, table)
    for row, values in enumerate(_rows(parquet, [name for name in wanted if name in schema.names])):
        where = f"{table}, row {row}"
        try:
            for name, names in class_names.items():
                values[name] = _class_name(name, values.get(name), names)
            if picture is None:
                yield row_source(values, files, table, where, checklist)
            else:
                source = Source(f"{table}!{row}", container=table, row=row, column=picture)
                yield source.known(row_attributes(values), row_license(values, files.license_columns))
        except ValueError as error:
            yield Source(f"{table}!{row}").refuse("bad-label", f"{where}: {error}")


def _rows(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    if not columns:
        yield from ({} for _ in range(parquet.metadata.num_rows))
        return
    for batch in parquet.iter_batches(batch_size=ROWS, columns=columns, use_threads=False):
        yield from batch.to_pylist()


def _picture_column(schema: pa.Schema) -> str | None:
    for name in PICTURE_COLUMNS:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return name
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{name}.bytes"
    return None


def _class_names(schema: pa.Schema, table: str) -> dict[str, list[str]]:
    """Returns what the integers of Hugging Face's ClassLabel columns mean."""
    note = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(note)["info"]["features"] if note else {}
        return {
            name: features[name]["names"]
            for name in LABEL_COLUMNS
            if name in features and features[name].get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CapriciousError(f"{table}: the schema's note for Hugging Face cannot be understood: {error!r}") from error


def _class_name(column: str, value: Any, names: list[str]) -> str | None:
    if value is None or value == -1:  # -1: not labelled
        return None
    if not 0 <= value < len(names):
        raise ValueError(f"{column} must be one of the {len(names)} classes that the file declares, found: {value}")
    return names[value]
