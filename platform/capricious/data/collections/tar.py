"""Tars of pictures, read in place: where each member's bytes lie is found from the headers alone."""

from __future__ import annotations

import io
import posixpath
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from capricious.data import storage
from capricious.data.collections.files import index_of
from capricious.data.collections.labels import LICENSE_COLUMNS
from capricious.data.collections.source import Source
from capricious.data.skipping import open_skipping


class Tar:
    """Members of one uncompressed tar, with 16 bytes for each beside its name. Implements files.Files.

    Hidden members and folders are left out, as in a folder. Of two members of one name the later counts,
    as when the tar is unpacked. Links and sparse members, which have no bytes of their own, are refused.

    Attributes:
        fault: why the tar cannot be read to its end, or None; what lies before the fault is listed.

    Raises:
        OSError: the tar cannot be opened.
    """

    def __init__(self, uri: str, license_columns: Sequence[str] = LICENSE_COLUMNS):
        self.uri = uri
        self.license_columns = license_columns
        self.fault: str | None = None
        found: dict[str, tuple[int, int]] = {}
        with open_skipping(uri) as file:
            try:
                for info in _headers(file):
                    name = posixpath.normpath(info.name)  # `tar c .` writes ./name
                    if not info.isdir() and not _is_hidden(name):
                        plain = info.isreg() and not info.issparse()
                        found[name] = (info.offset_data, info.size if plain else -1)
            except (tarfile.TarError, EOFError, ValueError) as error:
                self.fault = str(error)
        self.names: Sequence[str] = sorted(found)
        self._offsets = array("q", (found[name][0] for name in self.names))
        self._sizes = array("q", (found[name][1] for name in self.names))

    def source(self, name: str) -> Source:
        source = Source(self.address(name), container=self.uri)
        index = index_of(self.names, name)
        if index is None:
            return source.refuse("not-found", "a table of labels names it, but there is no such member in the tar")
        if self._sizes[index] < 0:
            return source.refuse("link", "it is a link or a sparse file; put the file itself into the tar")
        return Source(self.address(name), container=self.uri, span=self._span(index))

    def address(self, name: str) -> str:
        return f"{self.uri}!{name}"

    def open(self, name: str) -> BinaryIO:
        (data,) = self.read_many([name])
        if isinstance(data, OSError):
            raise data
        return io.BytesIO(data)

    def read_many(self, names: Sequence[str]) -> list[bytes | OSError]:
        indices = [index_of(self.names, name) for name in names]
        return storage.read_many([(self.uri, self._span(index)) for index in indices if index is not None])

    def _span(self, index: int) -> tuple[int, int]:
        return self._offsets[index], max(0, self._sizes[index])


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in name.split("/"))


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (info := tar.next()) is not None:
            # Else it would remember a kilobyte of each member.
            tar.members.clear()  # type: ignore[attr-defined]
            yield info
        # tarfile takes a damaged header for the end; a true end is a block of zeros, or the end of the file.
        file.seek(tar.offset)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"the header at byte {tar.offset} is damaged")
