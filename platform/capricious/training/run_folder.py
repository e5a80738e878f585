"""The folder of a run: on a local disk, or a local copy of one in an object store."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from capricious.data import storage


class RunFolder:
    """Where metrics, sample grids, weights and the bundle are written to.

    Files in an object store cannot be appended to or renamed, so a run whose `out` is a URL writes into a temporary
    folder, and `publish` uploads what has changed.

    Attributes:
        out: path or URL of the run.
        path: local folder to write to; the same as `out` if that is local.
    """

    def __init__(self, out: str):
        self.out, self._remote = out, "://" in out
        self.path = Path(tempfile.mkdtemp(prefix="run-") if self._remote else out)
        self._published: dict[Path, tuple[int, int]] = {}

    def fetch(self, name: str) -> None:
        """Gets a file that an earlier process has published, so that it can be continued."""
        uri = storage.join(self.out, name)
        if self._remote and storage.exists(uri):
            (self.path / name).write_bytes(storage.read(uri))

    def publish(self) -> None:
        """Makes all that was written visible at `out`."""
        if not self._remote:
            return
        files = [file for file in self.path.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: (file.suffix == ".json", file)):  # a bundle.json after its weights
            written = (file.stat().st_mtime_ns, file.stat().st_size)
            if self._published.get(file) != written:
                storage.upload_file(str(file), storage.join(self.out, *file.relative_to(self.path).parts))
                self._published[file] = written

    def close(self) -> None:
        """Deletes the temporary folder, if there is one."""
        if self._remote:
            shutil.rmtree(self.path)
