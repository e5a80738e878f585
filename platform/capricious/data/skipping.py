"""A far file of which little is wanted, here and there: the headers of a tar, and not the pictures between them."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from fsspec.implementations.local import LocalFileSystem

from capricious.data import storage

SKIPPED = storage.BLOCK // 4
"""Bytes that are not wanted from which on one more request is quicker than fetching them."""

PEEK = 4096
"""Bytes that are fetched after a skip: a tar's header with all that may belong to it."""


def open_skipping(uri: str) -> BinaryIO:
    """Opens a file for reading forward, over gaps. From an object store, large gaps are not fetched.

    Raises:
        OSError: as the file system does.
    """
    fs, path = storage.locate(uri)
    if isinstance(fs, LocalFileSystem):
        return open(path, "rb")
    return cast(BinaryIO, _Skipping(uri, int(fs.size(path))))


class _Skipping(io.RawIOBase):
    def __init__(self, uri: str, size: int):
        self._uri, self._size = uri, size
        self._position = 0
        self._start, self._held = 0, b""  # where the bytes at hand begin, and they

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._position + size, self._size)
        if end <= self._position:
            return b""
        held_to = self._start + len(self._held)
        if not self._start <= self._position <= end <= held_to:
            far = self._position - held_to > SKIPPED
            length = max(end - self._position, PEEK if far else storage.BLOCK)
            self._start, length = self._position, min(length, self._size - self._position)
            self._held = storage.read(self._uri, (self._start, length))
        data = self._held[self._position - self._start : end - self._start]
        self._position = end
        return data
