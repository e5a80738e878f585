"""What was in hand when a worker died: a picture that kills its process must not hold up the job for ever.

Ray starts a dead actor anew and gives it the same shard again, without end. So the start of each shard is noted, and a
shard that is started again within the run goes on picture by picture, with a note before each::

    out/begun/part-00007.json   {"run": "8c3f…", "in_hand": "s3://museum/a.tif", "deaths": {"s3://museum/a.tif": 1}}

A node that is taken away ends workers, too. A picture is only refused when it was in hand at DEATHS of them.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from capricious.data import storage
from capricious.data.collections import Source

FOLDER = "begun"

DEATHS = 2
"""How many workers may die with a picture in hand before it is refused. The first death of a shard has no name."""


class Begun:
    """The note about one shard.

    Args:
        out: folder of the job.
        shard: number of the shard.
        run: names the run; deaths of earlier runs, which may have been stopped on purpose, do not count.
    """

    def __init__(self, out: str, shard: int, run: str):
        self._uri = storage.join(out, FOLDER, f"part-{shard:05d}.json")
        self._run = run
        self._deaths: Counter[str] = Counter()

    def start(self) -> bool:
        """Notes that the shard is started; returns whether it was before, and its worker has died."""
        try:
            found = json.loads(storage.read(self._uri))
        except FileNotFoundError:
            found = {"run": None}
        again = found["run"] == self._run
        if again:
            self._deaths = Counter(found["deaths"])
            if found["in_hand"] is not None:
                self._deaths[found["in_hand"]] += 1
        self._write(None)
        return again

    def take(self, source: Source) -> Source:
        """Notes that a picture is in hand; returns it, or refused where that has ended too many workers."""
        if (deaths := self._deaths[source.uri]) >= DEATHS:
            detail = f"{deaths} workers died with this picture in hand; `ray logs` may say why, e.g. too little memory"
            return replace(source, refused=("internal", "killed-its-worker", detail))
        self._write(source.uri)
        return source

    def put_down(self) -> None:
        """Notes that no picture is in hand any more."""
        self._write(None)

    def _write(self, in_hand: str | None) -> None:
        note = {"run": self._run, "in_hand": in_hand, "deaths": self._deaths}
        storage.write_atomic(self._uri, json.dumps(note).encode())


def forget(out: str) -> None:
    """Deletes the notes of a run that has ended."""
    storage.remove_folder(storage.join(out, FOLDER))
