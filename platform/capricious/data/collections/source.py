"""One input of a batch job: where its bytes are, and what its keepers know of the sitter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa

from capricious.data import storage
from capricious.data.collections import web
from capricious.data.collections.cells import read_cell
from capricious.errors import Rejection
from capricious.faces.attributes import Attributes

MAX_BYTES = 512 * 2**20
"""A larger file is rejected unread: several are in memory at the same time."""

UNKNOWN = Attributes()
_LABELS = tuple(field.name for field in fields(Attributes))

SOURCE_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        (
            "labels",
            pa.struct(
                [
                    ("age", pa.float64()),
                    ("gender", pa.float64()),
                    ("glasses", pa.string()),
                    ("smile", pa.float64()),
                    ("emotion", pa.list_(pa.float64())),
                ]
            ),
        ),
        ("license", pa.string()),
        ("container", pa.string()),
        ("span", pa.list_(pa.int64())),  # offset and length, or null
        ("row", pa.int64()),
        ("column", pa.string()),
        ("host", pa.string()),
        ("refused", pa.list_(pa.string())),  # stage, reason and detail, or null
        ("prepared", pa.int64()),
    ]
)
"""Arrow schema of Source.to_row()."""


@dataclass(frozen=True, slots=True)
class Source:
    """One picture of a collection, with what is known of its (largest) sitter. Small: it holds no pixels.

    Attributes:
        uri: names the picture in every table. A path or URL; ``shard.tar!name.jpg`` for a member of a tar,
            ``part.parquet!17`` for a row of a Parquet file.
        labels: what the keepers of the collection say.
        license: in their words.
        container: the tar or Parquet file that holds the picture; empty for a file of its own.
        span: offset and length of the picture's bytes in a tar.
        row, column: where the picture is in a Parquet file.
        host: web host that may be asked for the picture besides those that are allowed by the environment.
        refused: stage, reason and detail of a picture that is rejected without being read, for example
            because its label is impossible.
        prepared: shard of the prepared dataset in which its faces are (data.annotations), if it was looked up.
    """

    uri: str
    labels: Attributes = UNKNOWN
    license: str = ""
    container: str = ""
    span: tuple[int, int] | None = None
    row: int | None = None
    column: str | None = None
    host: str = ""
    refused: tuple[str, str, str] | None = None
    prepared: int | None = None

    def read(self, limit: int = MAX_BYTES) -> bytes:
        """Returns the picture's encoded bytes, at most `limit` of them.

        Raises:
            Rejection: it was refused when the collection was listed, is too large, or its host is not allowed.
            OSError: it is not there or cannot be read.
        """
        if self.refused is not None:
            raise Rejection(*self.refused)
        if self.row is not None and self.column is not None:
            data = read_cell(self.container, self.row, self.column)
            _check_size(len(data), limit)
            return data
        if web.is_url(self.uri):
            return web.fetch(self.uri, web.AllowedHosts.from_environment(self.host), limit)
        if self.span is not None:
            _check_size(self.span[1], limit)
            return storage.read(self.container, self.span)
        if (content := storage.read_within(self.uri, limit)) is None:
            raise _too_large(limit)
        return content

    def known(self, labels: Attributes, license: str = "") -> Source:
        """Returns the source with labels and, where there is one, a license."""
        return replace(self, labels=labels, license=license or self.license)

    def refuse(self, reason: str, detail: str) -> Source:
        """Returns the source as one whose `read` raises a Rejection of stage "read"."""
        return replace(self, labels=UNKNOWN, refused=("read", reason, detail))

    def to_row(self) -> dict[str, Any]:
        """Returns the source as a row of SOURCE_SCHEMA: plain values only."""
        row = {name: getattr(self, name) for name in SOURCE_SCHEMA.names}
        row["labels"] = {name: getattr(self.labels, name) for name in _LABELS}
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Source:
        """Inverse of to_row(), also for a row that was in a Parquet file in between."""
        values = dict(row)
        values["labels"] = Attributes(**row["labels"])
        for name in ("span", "refused"):
            values[name] = tuple(row[name]) if row[name] is not None else None
        return cls(**values)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> Rejection:
    return Rejection("read", "too-many-bytes", f"the file has more than {limit} bytes; make it smaller")
