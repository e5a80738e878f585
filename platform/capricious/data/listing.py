"""What lies below a folder: names and nothing else, because a museum has ten million of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from fsspec.asyn import AsyncFileSystem, sync

from capricious.errors import CapriciousError


def files_below(folder: str, seen: set[tuple[int, int]] | None = None) -> Iterator[str]:
    """Yields the files below a folder of a local disk, as `storage.list_files` has them.

    Args:
        seen: device and inode of each folder that was listed.

    Raises:
        CapriciousError: a folder may not be read.
    """
    seen = set() if seen is None else seen
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
    except PermissionError as error:
        raise CapriciousError(f"{folder} may not be read; change its permissions or move it away") from error
    for entry in entries:
        if entry.is_dir():
            yield from files_below(entry.path, seen)
        # A link that leads nowhere stays in, to be rejected by name.
        elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
            yield entry.path


def keys_below(store: AsyncFileSystem, path: str) -> Iterator[str]:
    """Yields the objects below a path of an S3 store, as bucket/key, a page in memory at a time.

    s3fs would hold a dictionary of some 600 bytes for each, and compare each with all folders that it has met.

    Raises:
        OSError: as s3fs does.
    """
    bucket, _, prefix = path.partition("/")
    asked = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
    while True:
        page = sync(store.loop, store._call_s3, "list_objects_v2", **asked)
        for entry in page.get("Contents", ()):
            key = f"{bucket}/{entry['Key']}"
            if not key.endswith("/") and "/." not in key[len(path) :]:  # what ends in "/" stands for a folder
                yield key
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]
