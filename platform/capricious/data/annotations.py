"""The faces of a prepared dataset by the picture they are in: what prepare found need not be found again.

Whoever plans a job looks up once in which shard of the dataset each picture is (`PreparedIndex`), and writes it into
the plan. So a worker reads the shards that its own pictures are in, and nothing else (`PreparedAnnotations`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capricious.data.ahead import ahead
from capricious.data.collections import Source
from capricious.data.collections.parts import read_uris
from capricious.data.prepared import read_manifest, read_shard
from capricious.data.records import Face, Portrait
from capricious.errors import ConfigError, Rejection

TABLES_IN_MEMORY = 4
"""A collection is rendered in the order in which it was prepared, so the shard that is open is nearly always right."""


def fingerprint(path: str, resolution: int) -> str:
    """Names a complete prepared dataset by its content.

    Args:
        path: folder or URL of the dataset.
        resolution: of the network that will render; the dataset's crops must have at least that.

    Raises:
        CapriciousError: the dataset is incomplete, of another schema version, or of a lower resolution.
    """
    manifest = read_manifest(path)
    if manifest["resolution"] < resolution:
        raise ConfigError(
            f"the prepared dataset {path} has {manifest['resolution']} px, the bundle renders at {resolution}; "
            f"prepare it with --annotator.resolution {resolution}"
        )
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class PreparedIndex:
    """In which shard of a complete prepared dataset each picture is. Memory: 12 bytes a picture, while it is made 30.

    Pictures are told apart by 64 bits of their address' hash: of 10 million, two share theirs with a chance of 3 in a
    million, and one of those would be rejected as not prepared.
    """

    def __init__(self, path: str):
        shards = [entry["shard"] for entry in read_manifest(path)["shards"]]
        parts = [np.array([_key(uri) for uri in uris], np.uint64) for uris in ahead(partial(read_uris, path), shards)]
        keys = np.concatenate([np.zeros(0, np.uint64), *parts])
        order = np.argsort(keys)
        self._keys = keys[order]
        self._shards = np.repeat(np.array(shards, np.uint32), [len(part) for part in parts])[order]

    def looked_up(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Yields the sources with their shards; those that were not prepared are refused."""
        for source in sources:
            shard = self._shard_of(source.uri)
            if shard is not None or source.refused:
                yield replace(source, prepared=shard)
            else:
                detail = f"{source.uri} is not in the prepared dataset; prepare it first"
                yield replace(source, refused=("prepared", "not-prepared", detail))

    def _shard_of(self, uri: str) -> int | None:
        key = _key(uri)
        at = int(np.searchsorted(self._keys, key))
        return int(self._shards[at]) if at < len(self._keys) and self._keys[at] == key else None


def _key(uri: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(uri.encode()).digest()[:8], "big"))


class PreparedAnnotations:
    """Faces of a complete prepared dataset. Memory: a few of its tables.

    Args:
        path: folder or URL of the dataset.
    """

    def __init__(self, path: str):
        self._table = lru_cache(TABLES_IN_MEMORY)(partial(read_shard, path))

    def faces(self, source: Source, source_sha256: str) -> list[Face]:
        """Returns the faces of a picture that was looked up, largest first.

        Raises:
            Rejection: as prepare rejected it; or stage "prepared": it has changed since.
        """
        portraits = self._rows("portraits", source, "source_uri")
        if not portraits:
            raise self._rejection(source)
        if not portraits[0]["id"].startswith(source_sha256):
            detail = f"{source.uri} is another file than the one that was prepared; prepare it"
            raise Rejection("prepared", "changed", detail)
        portraits.sort(key=lambda row: row["face"])
        return [Portrait.from_row(row).decoded() for row in portraits]

    def _rejection(self, source: Source) -> Rejection:
        for row in self._rows("rejects", source, "uri"):
            return Rejection(row["stage"], row["reason"], row["detail"])
        return Rejection("prepared", "not-prepared", f"{source.uri} is not in the prepared dataset; prepare it first")

    def _rows(self, table: str, source: Source, column: str) -> list[dict[str, Any]]:
        rows: pa.Table = self._table(table, source.prepared)
        return rows.filter(pc.equal(rows[column], source.uri)).to_pylist()
