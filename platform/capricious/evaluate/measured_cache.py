"""Real portraits are measured once on a machine, whatever bundles are scored on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from capricious import weights
from capricious.data import storage
from capricious.data.records import Portrait
from capricious.data.tables import read_table, write_table
from capricious.errors import Rejection
from capricious.evaluate.measure import SCHEMA

Row = dict[str, Any]


def cached(portraits: Sequence[Portrait], key: Mapping[str, Any], measure: Callable[[Portrait], Row]) -> dict[str, Row]:
    """Returns the rows of portraits by id, from the cache where they were measured before.

    The cache is named by content: the bytes of all crops, label maps and attributes, and `key`.

    Args:
        key: what else determines the rows: extractors with their hashes, the resolution.
        measure: makes one row; portraits that it rejects are left out, to be rejected where they are rendered.
    """
    path = str(weights.cache_folder().parent / "measured" / f"{_name(portraits, key)}.parquet")
    if storage.exists(path):
        rows = read_table(path).to_pylist()
    else:
        rows = list(_measured(portraits, measure))
        write_table(path, rows, SCHEMA)
    return {row["portrait"]: row for row in rows}


def _measured(portraits: Sequence[Portrait], measure: Callable[[Portrait], Row]) -> list[Row]:
    rows = []
    for portrait in portraits:
        try:
            rows.append(measure(portrait))
        except Rejection:
            continue  # damaged: the caller meets it again and tells
    return rows


def _name(portraits: Sequence[Portrait], key: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode())
    for portrait in portraits:
        row = portrait.row()
        for part in (
            portrait.image,
            portrait.label_map,
            repr((row["id"], row["attributes"], row["landmarks"])).encode(),
        ):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
