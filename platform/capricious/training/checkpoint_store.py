"""Where checkpoints lie: in a folder that all processes share, or in an object store.

Every process writes its own files; when all have, the first writes state.json. A checkpoint with a state.json is
complete, one without is what a kill left behind: never continued, and swept away after the next complete one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from capricious.data import storage
from capricious.errors import CapriciousError
from capricious.training.checkpoint import STATE_FILE, folder_name, read_state, write_state
from capricious.training.strategy import Processes

Direction = Literal["lowest", "highest"]


def complete(out: str | Path) -> list[str]:
    """Returns the complete checkpoints of a run, the oldest first."""
    folder = storage.join(str(out), "checkpoints")
    return [found for found in _folders(folder) if storage.exists(storage.join(found, STATE_FILE))]


def latest(out: str | Path) -> str | None:
    """Returns the newest complete checkpoint of a run, or None."""
    found = complete(out)
    return found[-1] if found else None


def best(out: str | Path, score: str, direction: Direction) -> str | None:
    """Returns the complete checkpoint with the best score of that name, the oldest of equals; None without scores."""
    sign = 1.0 if direction == "lowest" else -1.0
    scored = [(sign * scores[score], at) for at in complete(out) if score in (scores := read_state(at)["scores"])]
    return min(scored)[1] if scored else None


class CheckpointStore:
    """The checkpoints of one run, as one of its processes sees them. All processes call the methods alike.

    Args:
        out: folder or URL of the run.
        keep: newest checkpoints to keep.
        best_by, best_is: keep the best by this score, too, however old.
    """

    def __init__(self, out: str, processes: Processes, keep: int, best_by: str | None, best_is: Direction):
        self.out, self._processes = out, processes
        self._keep, self._best_by, self._best_is = keep, best_by, best_is
        self._remote = "://" in out

    def require_shared(self) -> None:
        """Refuses a folder that not all processes see: checkpoints there could not be continued.

        Raises:
            CapriciousError: on every process.
        """
        processes = self._processes
        number = processes.from_first(int.from_bytes(os.urandom(6)))
        probe = storage.join(self.out, "checkpoints", f".probe-{number}")
        if processes.rank == 0:
            storage.write_atomic(probe, b"")
        processes.wait()
        blind = processes.total(0 if storage.exists(probe) else 1)
        processes.wait()
        if processes.rank == 0:
            storage.remove(probe)
        if blind:
            raise CapriciousError(
                f"{self.out} is not one folder for all: {blind} of {processes.world_size} processes do not see what "
                "the first writes there; use a folder that all machines share, or s3://…"
            )

    def write(self, images_seen: int, save: Callable[[Path], None], state: dict[str, Any]) -> str:
        """Writes a checkpoint and returns its folder or URL; afterwards what is no longer to be kept is deleted.

        Args:
            save: writes this process's files into the folder that it is given.
            state: what the first process writes into state.json; "scores" decide which is best.
        """
        place = storage.join(self.out, "checkpoints", folder_name(images_seen))
        first = self._processes.rank == 0
        if first:
            _remove(place)  # an incomplete one, perhaps with shards of processes that are no longer there
        self._processes.wait()
        if self._remote:
            with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
                save(Path(folder))
                storage.upload_folder(folder, place)
        else:
            Path(place).mkdir(parents=True, exist_ok=True)
            save(Path(place))
            storage.flush_folder(place)
        self._processes.wait()
        if first:
            write_state(place, state)
            self._sweep()
        self._processes.wait()
        return place

    @contextmanager
    def opened(self, checkpoint: str) -> Iterator[Path]:
        """Gives a checkpoint as a local folder while it is open; one download serves all processes of a machine."""
        if not self._remote:
            yield Path(checkpoint)
            return
        # All processes of a machine must name the same folder, and no other run on it may.
        number = self._processes.from_first(int.from_bytes(os.urandom(6)))
        folder = Path(tempfile.gettempdir()) / f"checkpoint-{number}"
        downloads = self._processes.local_rank == 0
        if downloads:
            storage.download_tree(checkpoint, str(folder))
        self._processes.wait()
        try:
            yield folder
            self._processes.wait()
        finally:
            if downloads:
                shutil.rmtree(folder)

    def _sweep(self) -> None:
        whole = complete(self.out)
        kept = set(whole[-self._keep :])
        if self._best_by is not None and (winner := best(self.out, self._best_by, self._best_is)):
            kept.add(winner)
        for folder in _folders(storage.join(self.out, "checkpoints")):
            if folder not in kept:
                _remove(folder)


def _folders(parent: str) -> list[str]:
    fs, path = storage.locate(parent)
    if not fs.exists(path):
        return []
    names = (found.rstrip("/").rsplit("/", 1)[-1] for found in fs.ls(path, detail=False))
    return [storage.join(parent, name) for name in sorted(names) if name.startswith("images-")]


def _remove(folder: str) -> None:
    """Deletes a checkpoint, state.json first: a kill on the way leaves an incomplete one."""
    storage.remove(storage.join(folder, STATE_FILE))
    storage.remove_folder(folder)
