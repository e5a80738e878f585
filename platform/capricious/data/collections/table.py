"""Tables of labels: CSV files that name pictures and say what is known of the sitters."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from capricious.data import storage
from capricious.data.collections import web
from capricious.data.collections.files import Checklist, Files, basename
from capricious.data.collections.labels import row_attributes, row_license
from capricious.data.collections.source import Source
from capricious.errors import CapriciousError

LABELS_FILE = "labels.csv"


def read_labelled(files: Files) -> Iterator[Source]:
    """Yields what each ``labels.csv`` names, in its order, then the files that none names, unlabelled.

    A row may name a file that is missing: it is listed all the same, and rejected when it cannot be read.
    A file that several rows name has the labels of the first.

    Raises:
        CapriciousError: no such table, or one that cannot be understood.
    """
    tables = [name for name in files.names if basename(name) == LABELS_FILE]
    if not tables:
        raise CapriciousError(f"{files.uri} has no {LABELS_FILE}; name the pictures and their labels there")
    return _read_tables(files, tables)


def read_table(files: Files, table: str) -> Iterator[Source]:
    """Yields what one table names, and nothing else."""
    return _read_table(files, table, Checklist(()))


def _read_tables(files: Files, tables: list[str]) -> Iterator[Source]:
    checklist = Checklist(files.names)
    for table in tables:
        checklist.tick(table)
    for table in tables:
        yield from _read_table(files, table, checklist)
    for name in checklist.unticked():
        yield files.source(name)


def _read_table(files: Files, table: str, checklist: Checklist) -> Iterator[Source]:
    address = files.address(table)
    with files.open(table) as stream:
        rows = csv_rows(stream, address)
        _, header = next(rows, (1, []))
        columns = [name.strip().lower() for name in header]
        if "file" not in columns and "uri" not in columns:
            raise CapriciousError(f"{address}, line 1: needs a column file or uri, found: {', '.join(columns)}")
        for line, values in rows:
            row = dict(zip(columns, values, strict=False))
            source = row_source(row, files, table, f"{address}, line {line}", checklist)
            if source is not None and len(values) > len(columns):  # a comma without quotes shifts the labels
                detail = f"{address}, line {line}: {len(values)} values for {len(columns)} columns"
                source = source.refuse("bad-label", detail)
            if source is not None:
                yield source


def row_source(row: Mapping[str, Any], files: Files, table: str, where: str, checklist: Checklist) -> Source | None:
    """Returns the picture that a row of a table names, labelled, or None where it was named before.

    Args:
        row: column ``file``, relative to the table's folder, or ``uri``; and labels (labels.row_attributes).
        files, table: the collection, and the table's name in it.
        where: table and line, for messages.
        checklist: names of the collection; the picture is ticked off.
    """
    file, uri = row.get("file"), row.get("uri")
    if file:
        name = posixpath.normpath(file)
        if name.startswith(("/", "../")) or name == "..":
            detail = f"{where}: file must lie below the table's folder, found: {file}; give other places as uri"
            return Source(f"{files.address(table)}!{file}").refuse("bad-label", detail)
        name = table[: -len(basename(table))] + name
        source = files.source(name)
    elif uri:
        source = _source_at(uri, where)
        name = source.uri  # absolute, as a folder's names are
    else:
        return Source(where).refuse("bad-label", f"{where}: names no file")
    if not checklist.tick(name):
        return None
    if source.refused:
        return source
    try:
        return source.known(row_attributes(row), row_license(row, files.license_columns))
    except ValueError as error:
        return source.refuse("bad-label", f"{where}: {error}")


def _source_at(uri: str, where: str) -> Source:
    scheme, found, _ = uri.partition("://")
    if found and scheme not in storage.SCHEMES and not web.is_url(uri):
        return Source(uri).refuse("bad-label", f"{where}: uri must be a path, s3://… or https://…, found: {uri}")
    return Source(storage.absolute(uri))


def csv_rows(stream: BinaryIO, table: str) -> Iterator[tuple[int, list[str]]]:
    """Yields line numbers and values of a CSV file in UTF-8, its header too, one row in memory at a time.

    Raises:
        CapriciousError: not a CSV file, or not in UTF-8; names the line.
    """
    reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
    except UnicodeDecodeError as error:
        raise CapriciousError(f"{table}, near line {reader.line_num + 1}: save the table as UTF-8 ({error})") from error
    except csv.Error as error:
        raise CapriciousError(f"{table}, line {reader.line_num}: not a CSV file: {error}") from error
