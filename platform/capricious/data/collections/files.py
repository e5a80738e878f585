"""What readers of labels see of a collection: names in order, sources by name, and small files to read."""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

from capricious.data import storage
from capricious.data.collections.labels import LICENSE_COLUMNS
from capricious.data.collections.source import Source

PICTURES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".avif", ".ppm", ".pgm")
)


class Files(Protocol):
    """Files of a folder or members of a tar.

    Attributes:
        uri: of the whole.
        names: sorted; a full address for a folder's file, a path inside of the tar for a member.
        license_columns: of its tables; the first that is not empty counts.
    """

    uri: str
    names: Sequence[str]
    license_columns: Sequence[str]

    def source(self, name: str) -> Source:
        """Returns the file as an input without labels. A name that is not there gives one that cannot be read."""

    def address(self, name: str) -> str:
        """Names a file for people."""

    def open(self, name: str) -> BinaryIO:
        """Opens a file that is there, such as a table of labels."""

    def read_many(self, names: Sequence[str]) -> list[bytes | OSError]:
        """Reads small files that are there, each as its bytes or the error that reading it gave."""


class Folder:
    """Files below a folder, or one file, on a local disk or in an object store."""

    def __init__(self, uri: str, names: Sequence[str] | None = None, license_columns: Sequence[str] = LICENSE_COLUMNS):
        self.uri = uri
        self.license_columns = license_columns
        self.names: Sequence[str] = storage.list_files(uri) if names is None else names

    def source(self, name: str) -> Source:
        return Source(name)

    def address(self, name: str) -> str:
        return name

    def open(self, name: str) -> BinaryIO:
        return storage.open_binary(name)

    def read_many(self, names: Sequence[str]) -> list[bytes | OSError]:
        return storage.read_many([(name, None) for name in names])


class Checklist:
    """Names to be ticked off, so that each input is listed once whatever tables name it how often."""

    def __init__(self, names: Sequence[str]):
        self._names = names
        self._ticked = bytearray(len(names))
        self._strangers: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._index(name) is not None

    def tick(self, name: str) -> bool:
        """Returns True the first time that a name is given, whether it is on the list or not."""
        index = self._index(name)
        if index is None:
            first = name not in self._strangers
            self._strangers.add(name)
            return first
        first = not self._ticked[index]
        self._ticked[index] = 1
        return first

    def unticked(self) -> Iterator[str]:
        """Yields the names on the list that were not given yet, in order."""
        return (name for name, ticked in zip(self._names, self._ticked, strict=True) if not ticked)

    def _index(self, name: str) -> int | None:
        return index_of(self._names, name)


def index_of(names: Sequence[str], name: str) -> int | None:
    """Finds a name among sorted names; a list and its order need far less memory than a dictionary."""
    index = bisect_left(names, name)
    return index if index < len(names) and names[index] == name else None


def basename(name: str) -> str:
    """Returns what follows the last "/"."""
    return name.rpartition("/")[2]


def suffix(name: str) -> str:
    """Returns the ending of a file's name in lower case, such as ".jpg"."""
    return posixpath.splitext(name)[1].lower()


def is_picture(name: str) -> bool:
    """Says whether a name ends as pictures' names do."""
    return suffix(name) in PICTURES


def batches(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cuts a sequence into runs of at most `size`."""
    return (names[i : i + size] for i in range(0, len(names), size))
