"""The prepared dataset on disk: Parquet shards of portraits beside shards of rejects, a manifest last.

::

    out/_plan.json                    what was asked for; written first
    out/rejects/part-00000.parquet    inputs of shard 0 that could not be used, and why
    out/portraits/part-00000.parquet  portraits of shard 0; its presence says that the shard is done
    out/_manifest.json                counts and hashes; its presence says that the dataset is complete
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capricious.data import storage
from capricious.data.records import PORTRAIT_SCHEMA, REJECT_SCHEMA, SCHEMA_VERSION, Portrait
from capricious.errors import CapriciousError

MANIFEST = "_manifest.json"


def shard_uri(out: str, table: str, shard: int) -> str:
    """Names one shard of the table "portraits" or "rejects"."""
    return storage.join(out, table, f"part-{shard:05d}.parquet")


def is_done(out: str, shard: int) -> bool:
    """Says whether a shard was written completely."""
    return storage.exists(shard_uri(out, "portraits", shard))


def write_shard(out: str, shard: int, portraits: Iterable[Portrait], rejects: Iterable[dict[str, str]]) -> None:
    """Writes one shard: rejects first, then portraits, each atomically; rewriting gives the same bytes."""
    tables = {
        "rejects": pa.Table.from_pylist(list(rejects), REJECT_SCHEMA),
        "portraits": pa.Table.from_pylist([p.row() for p in portraits], PORTRAIT_SCHEMA),
    }
    for name, table in tables.items():
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        storage.write_atomic(shard_uri(out, name, shard), buffer.getvalue())


def write_manifest(out: str, shards: int, plan: dict[str, Any], resolution: int) -> dict[str, Any]:
    """Counts and hashes all shards and writes the manifest that completes the dataset; returns it.

    Raises:
        CapriciousError: a shard is missing.
    """
    entries = []
    for shard in range(shards):
        if not is_done(out, shard):
            raise CapriciousError(f"shard {shard} of {out} is missing; run the same command again to finish it")
        data = storage.read(shard_uri(out, "portraits", shard))
        entries.append(
            {
                "shard": shard,
                "portraits": pq.read_metadata(io.BytesIO(data)).num_rows,
                "rejects": len(read_rejects_shard(out, shard)),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "resolution": resolution,
        "portraits": sum(e["portraits"] for e in entries),
        "rejects": sum(e["rejects"] for e in entries),
        "plan": plan,
        "shards": entries,
    }
    storage.write_atomic(storage.join(out, MANIFEST), json.dumps(manifest, indent=2).encode())
    return manifest


def read_rejects_shard(out: str, shard: int) -> list[dict[str, str]]:
    """Reads the rejects of one shard as rows of REJECT_SCHEMA."""
    return pq.read_table(io.BytesIO(storage.read(shard_uri(out, "rejects", shard)))).to_pylist()


def read_rejects(out: str) -> list[dict[str, str]]:
    """Reads all rejects of a complete dataset."""
    shards = json.loads(storage.read(storage.join(out, MANIFEST)))["shards"]
    return [row for entry in shards for row in read_rejects_shard(out, entry["shard"])]


class PreparedDataset:
    """A complete prepared dataset, or one split of it, in memory (encoded: about 10 KB a portrait).

    Args:
        path: folder or URL with a manifest.
        split: "train", "test" or None for both.

    Raises:
        CapriciousError: incomplete, of another schema version, or nothing in this split.
    """

    def __init__(self, path: str, split: str | None = "train"):
        manifest_uri = storage.join(path, MANIFEST)
        if not storage.exists(manifest_uri):
            raise CapriciousError(
                f"{path} is not a complete prepared dataset ({MANIFEST} is missing); "
                f"finish it with: python jobs/prepare.py --source … --out {path}"
            )
        manifest_bytes = storage.read(manifest_uri)
        manifest = json.loads(manifest_bytes)
        if manifest["schema_version"] != SCHEMA_VERSION:
            raise CapriciousError(
                f"{path} has schema version {manifest['schema_version']}, this code reads {SCHEMA_VERSION}; "
                "prepare it again"
            )
        self.path = path
        self.resolution: int = manifest["resolution"]
        self.fingerprint = hashlib.sha256(manifest_bytes).hexdigest()
        shards = [pq.read_table(io.BytesIO(storage.read(_uri(path, e)))) for e in manifest["shards"]]
        rows = pa.concat_tables(shards or [PORTRAIT_SCHEMA.empty_table()])
        if split is not None:
            rows = rows.filter(pc.equal(rows["split"], split))
        if len(rows) == 0:
            raise CapriciousError(f"{path} has no portraits in split {split!r}")
        self._rows = rows.combine_chunks()

    def __len__(self) -> int:
        return len(self._rows)

    def portrait(self, index: int) -> Portrait:
        """Returns one portrait, 0 ≤ index < len(self)."""
        return Portrait.from_row(self._rows.slice(index, 1).to_pylist()[0])


def _uri(path: str, entry: dict[str, Any]) -> str:
    return shard_uri(path, "portraits", entry["shard"])
