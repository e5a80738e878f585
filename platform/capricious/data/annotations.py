"""The faces of a prepared dataset by the picture they are in: what prepare found need not be found again."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict

from capricious.data.prepared import read_manifest, read_shard
from capricious.data.records import Face, Portrait
from capricious.errors import ConfigError, Rejection

SHARDS_IN_MEMORY = 2
"""A collection is rendered in the order in which it was prepared, so the shard that is open is nearly always right."""


class PreparedAnnotations:
    """Faces of a complete prepared dataset by source_uri. Memory: some 100 bytes a picture, and two open shards.

    Args:
        path: folder or URL of the dataset.
        resolution: of the network that will render; the dataset's crops must have at least that.

    Raises:
        CapriciousError: the dataset is incomplete, of another schema version, or of a lower resolution.
    """

    def __init__(self, path: str, resolution: int):
        manifest = read_manifest(path)
        if manifest["resolution"] < resolution:
            raise ConfigError(
                f"the prepared dataset {path} has {manifest['resolution']} px, the bundle renders at {resolution}; "
                f"prepare it with --annotator.resolution {resolution}"
            )
        self._path = path
        self._shard_of: dict[str, int] = {}
        self._rejects: dict[str, tuple[str, str, str]] = {}  # stage, reason and detail
        for entry in manifest["shards"]:
            shard = entry["shard"]
            for uri in read_shard(path, "portraits", shard, ["source_uri"])["source_uri"].to_pylist():
                self._shard_of[uri] = shard
            if entry["rejects"]:
                for row in read_shard(path, "rejects", shard).to_pylist():
                    self._rejects[row["uri"]] = row["stage"], row["reason"], row["detail"]
        self._open: OrderedDict[int, dict[str, list[Portrait]]] = OrderedDict()

    @staticmethod
    def fingerprint(path: str) -> str:
        """Names a complete prepared dataset by its content."""
        return hashlib.sha256(json.dumps(read_manifest(path), sort_keys=True).encode()).hexdigest()

    def faces(self, uri: str, source_sha256: str) -> list[Face]:
        """Returns the faces of a picture, largest first.

        Raises:
            Rejection: as prepare rejected it; or stage "prepared": it was not prepared, or has changed since.
        """
        if uri in self._rejects:
            raise Rejection(*self._rejects[uri])  # each time anew: one that is kept would keep its caller's pictures
        if uri not in self._shard_of:
            raise Rejection("prepared", "not-prepared", f"{uri} is not in the prepared dataset; prepare it first")
        portraits = self._shard(self._shard_of[uri])[uri]
        if not portraits[0].id.startswith(source_sha256):
            raise Rejection("prepared", "changed", f"{uri} is another file than the one that was prepared; prepare it")
        return [portrait.decoded() for portrait in sorted(portraits, key=lambda portrait: portrait.face)]

    def _shard(self, shard: int) -> dict[str, list[Portrait]]:
        if shard not in self._open:
            found: dict[str, list[Portrait]] = {}
            for row in read_shard(self._path, "portraits", shard).to_pylist():
                found.setdefault(row["source_uri"], []).append(Portrait.from_row(row))
            self._open[shard] = found
            if len(self._open) > SHARDS_IN_MEMORY:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]
