"""Whose the output of a batch is: a note in its folder. The job server forgets its jobs, and hands over to another one;
the folder is there for as long as there is anything to read.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace

from capricious.cluster.plan import PLAN
from capricious.data import storage
from serve.places import Prefix

NOTE = "_owner.json"


def owner_of(out: str) -> str | None:
    """Returns the caller whose batches write to an output folder, or None where nobody's have.

    Raises:
        OSError: it cannot be told.
    """
    try:
        return str(json.loads(storage.read(storage.join(out, NOTE)))["caller"])
    except FileNotFoundError:
        return None


def claim(out: str, caller: str, allowed: Sequence[Prefix]) -> None:
    """Makes an output folder a caller's own, unless it is already.

    Args:
        out: below one of `allowed`.

    Raises:
        ValueError: it is another's, somebody's who is not known, or inside of an output; says which.
        OSError: the folder cannot be read or written.
    """
    owner = owner_of(out)
    if owner == caller:
        return
    if owner is not None or storage.exists(storage.join(out, PLAN)):
        raise ValueError(f"{out} holds the results of somebody else; choose another folder")
    for folder in _folders_above(Prefix.parse(out), allowed):
        if owner_of(folder) is not None:
            raise ValueError(f"{out} lies among the results of another batch, in {folder}; choose another folder")
    storage.write_atomic(storage.join(out, NOTE), json.dumps({"caller": caller}).encode())


def _folders_above(place: Prefix, allowed: Sequence[Prefix]) -> Iterator[str]:
    while place.path:
        place = replace(place, path=posixpath.dirname(place.path).rstrip("/"))
        if not any(prefix.holds(place) for prefix in allowed):
            return
        yield str(place)
