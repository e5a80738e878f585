"""The prepared dataset on disk: Parquet shards of portraits beside shards of rejects, a manifest last.

::

    out/_plan.json                    what was asked for (cluster.plan)
    out/rejects/part-00000.parquet    inputs of shard 0 that could not be used, and why
    out/portraits/part-00000.parquet  portraits of shard 0
    out/receipts/part-00000.json      counts, hash and seconds of shard 0; its presence says that the shard is done
    out/_manifest.json                all receipts; its presence says that the dataset is complete
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from capricious.data import storage
from capricious.data.ahead import ahead
from capricious.data.records import PORTRAIT_SCHEMA, REJECT_SCHEMA, SCHEMA_VERSION, Portrait
from capricious.data.tables import read_table, write_table
from capricious.errors import CapriciousError

MANIFEST = "_manifest.json"


def shard_uri(out: str, table: str, shard: int) -> str:
    """Names one shard of the table "portraits" or "rejects"."""
    return storage.join(out, table, f"part-{shard:05d}.parquet")


def receipt_uri(out: str, shard: int) -> str:
    """Names the receipt of one shard."""
    return storage.join(out, "receipts", f"part-{shard:05d}.json")


def write_shard(
    out: str,
    shard: int,
    portraits: Iterable[Portrait],
    rejects: Iterable[dict[str, str]],
    *,
    pictures: int,
    seconds: Mapping[str, float],
) -> None:
    """Writes one shard: rejects, portraits and then the receipt, each atomically.

    The receipt of an earlier run goes first: it would vouch for tables that are being replaced.

    Args:
        pictures: number of inputs of the shard.
        seconds: where the time went, by stage; kept in the receipt.
    """
    reject_rows, portrait_rows = list(rejects), [portrait.row() for portrait in portraits]
    storage.remove(receipt_uri(out, shard))
    write_table(shard_uri(out, "rejects", shard), reject_rows, REJECT_SCHEMA)
    written = write_table(shard_uri(out, "portraits", shard), portrait_rows, PORTRAIT_SCHEMA)
    receipt = {
        "shard": shard,
        "pictures": pictures,
        "portraits": len(portrait_rows),
        "rejects": len(reject_rows),
        "sha256": hashlib.sha256(written).hexdigest(),  # of the portraits
        "seconds": {name: round(value, 4) for name, value in sorted(seconds.items())},
    }
    storage.write_atomic(receipt_uri(out, shard), json.dumps(receipt).encode())


def read_receipts(out: str) -> dict[int, dict[str, Any]]:
    """Reads the receipts of all shards that are done, by shard."""
    folder = storage.join(out, "receipts")
    if not storage.exists(folder):
        return {}
    files = [uri for uri in storage.list_files(folder) if uri.endswith(".json")]
    receipts = map(json.loads, ahead(storage.read, files))
    return {receipt["shard"]: receipt for receipt in receipts}


def reopen(out: str) -> None:
    """Declares the dataset incomplete. Shards that are to be done again stay done until they are written anew."""
    storage.remove(storage.join(out, MANIFEST))


def write_manifest(out: str, shards: int, plan: dict[str, Any], resolution: int) -> dict[str, Any]:
    """Collects the receipts of all shards into the manifest that completes the dataset; returns it.

    Raises:
        CapriciousError: a shard is missing.
    """
    receipts = read_receipts(out)
    missing = [shard for shard in range(shards) if shard not in receipts]
    if missing:
        raise CapriciousError(f"shard {missing[0]} of {out} is missing; run the same command again to finish it")
    entries = [{**receipts[shard]} for shard in range(shards)]
    for entry in entries:
        del entry["seconds"]  # the manifest's hash names the content; how long it took is not part of it
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


def read_manifest(out: str) -> dict[str, Any]:
    """Reads the manifest of a complete dataset.

    Raises:
        CapriciousError: incomplete, or of another schema version.
    """
    if not storage.exists(storage.join(out, MANIFEST)):
        raise CapriciousError(
            f"{out} is not a complete prepared dataset ({MANIFEST} is missing); "
            f"finish it with: python jobs/prepare.py --source … --out {out}"
        )
    manifest = json.loads(storage.read(storage.join(out, MANIFEST)))
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise CapriciousError(
            f"{out} has schema version {manifest['schema_version']}, this code reads {SCHEMA_VERSION}; prepare it again"
        )
    return manifest


def read_shard(out: str, table: str, shard: int, columns: list[str] | None = None) -> pa.Table:
    """Reads one shard of "portraits" or "rejects", or some of its columns."""
    return read_table(shard_uri(out, table, shard), columns)


def read_rejects(out: str) -> Iterator[dict[str, str]]:
    """Yields the rejects of a complete dataset as rows of REJECT_SCHEMA."""
    shards = [entry["shard"] for entry in read_manifest(out)["shards"] if entry["rejects"]]
    for table in ahead(partial(read_shard, out, "rejects"), shards):
        yield from table.to_pylist()


def spread(out: str, count: int) -> list[Portrait]:
    """Reads at most `count` portraits, spread evenly over a complete dataset; the rest of it is not kept in memory."""
    manifest = read_manifest(out)
    total = manifest["portraits"]
    wanted = [i * total // min(count, total) for i in range(min(count, total))]
    portraits, before = [], 0
    for entry in manifest["shards"]:
        here = [i - before for i in wanted if before <= i < before + entry["portraits"]]
        if here:
            rows = read_shard(out, "portraits", entry["shard"]).take(here).to_pylist()
            portraits += [Portrait.from_row(row) for row in rows]
        before += entry["portraits"]
    return portraits


class PreparedDataset:
    """A complete prepared dataset, or one split of it, in memory (encoded: about 10 KB a portrait).

    Args:
        path: folder or URL with a manifest.
        split: "train", "test" or None for both.

    Raises:
        CapriciousError: incomplete, of another schema version, or nothing in this split.
    """

    def __init__(self, path: str, split: str | None = "train"):
        manifest = read_manifest(path)
        self.path = path
        self.resolution: int = manifest["resolution"]
        self.fingerprint = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        shards = [entry["shard"] for entry in manifest["shards"]]
        tables = list(ahead(partial(read_shard, path, "portraits"), shards))
        rows = pa.concat_tables(tables or [PORTRAIT_SCHEMA.empty_table()])
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
