"""Files on a local disk or in an object store, by one name: a path or a URL such as ``s3://bucket/key``.

Credentials and endpoints come from the environment alone (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …). All functions raise
OSError as file systems do, and its kind StoreFault where the fault is not one file's but the store's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import BinaryIO, cast
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from capricious.data.listing import files_below, keys_below
from capricious.errors import CapriciousError, StoreFault

SCHEMES = ("file", "s3")
BLOCK = 4 * 2**20
"""Bytes that one request to an object store fetches when a file is read from front to back."""

FIRST = 32 * 2**20
"""Bytes of a whole file that an object store is asked for at first; only of a larger file the size is asked."""


@lru_cache(maxsize=16)
def _filesystem(scheme: str) -> fsspec.AbstractFileSystem:
    if scheme not in SCHEMES:
        raise CapriciousError(f"cannot open {scheme}:// addresses; must be a path or one of {', '.join(SCHEMES)}")
    # A remembered listing would hide what other processes have written since, and grows with the collection.
    # fsspec's memory of instances ignores the environment: it would answer with the store of an earlier endpoint.
    options = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        # Imported here: a bare GPU machine, which trains from local files, has no s3fs.
        from capricious.data.object_store import ObjectStore

        return ObjectStore(**options)
    return fsspec.filesystem(scheme, **options)


def locate(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Splits a path or URL into its file system and the path on it.

    Raises:
        CapriciousError: the scheme is not one of SCHEMES.
    """
    scheme, found, path = uri.partition("://")
    if not found:
        return _filesystem("file"), os.path.abspath(uri)
    return _filesystem(scheme), path.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """Joins with "/", for paths and URLs alike."""
    return "/".join([uri.rstrip("/"), *parts])


def absolute(uri: str) -> str:
    """Makes a local path absolute (workers have other working directories); leaves URLs alone."""
    return uri if "://" in uri else os.path.abspath(uri)


def store_of(uri: str) -> str:
    """Names what holds a file, ``s3://bucket``, so that files can be told to lie together; empty for the local disk."""
    scheme, found, path = uri.partition("://")
    return f"{scheme}://{path.partition('/')[0]}" if found and scheme != "file" else ""


def list_files(uri: str) -> list[str]:
    """Lists all files under a folder, sorted, as URIs that `read` takes. Hidden files are left out.

    Memory is that of the names: about 100 bytes each.

    On a local disk, links to folders are followed (each folder is listed once, so a circle ends); pipes, sockets
    and devices are left out, because reading one could wait forever.

    Raises:
        CapriciousError: there is no such file or folder, or a folder may not be read.
    """
    fs, path = locate(uri)
    if not fs.exists(path):
        raise CapriciousError(f"there is no file or folder at {uri}")
    if fs.isfile(path):
        return [absolute(uri)]
    if isinstance(fs, LocalFileSystem):
        return sorted(files_below(path))
    prefix = f"{uri.partition('://')[0]}://"
    return sorted(prefix + key for key in keys_below(fs, path))


def _below(found: str, folder: str) -> list[str]:
    return found[len(folder) :].strip("/").split("/")


def exists(uri: str) -> bool:
    """Says whether there is a file or folder at `uri`."""
    fs, path = locate(uri)
    return bool(fs.exists(path))


def read(uri: str, span: tuple[int, int] | None = None) -> bytes:
    """Reads a whole file, or the `span` of it: offset and length in bytes.

    Raises:
        OSError: as the file system does, and where the file ends before the span does.
    """
    fs, path = locate(uri)
    if span is None:
        return fs.cat_file(path)
    offset, length = span
    if length == 0:
        return b""  # an object store refuses an empty range
    return _whole(fs.cat_file(path, start=offset, end=offset + length), uri, span)


def read_at_most(uri: str, limit: int) -> bytes:
    """Reads a whole file with one request, but no more than `limit` bytes of it.

    Raises:
        OSError: as the file system does.
    """
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with open(path, "rb") as file:
            return file.read(limit)
    try:
        return fs.cat_file(path, start=0, end=limit)
    except StoreFault:
        raise
    except OSError:
        if fs.size(path) == 0:  # of an empty object there is no range
            return b""
        raise


def read_within(uri: str, limit: int) -> bytes | None:
    """Reads a whole file unless it has more than `limit` bytes: then it returns None and has held little of it.

    Raises:
        OSError: as the file system does.
    """
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with open(path, "rb") as file:
            return file.read() if os.fstat(file.fileno()).st_size <= limit else None
    start = read_at_most(uri, min(limit, FIRST) + 1)
    if len(start) <= min(limit, FIRST):
        return start
    size = fs.size(path)
    return start + read(uri, (len(start), size - len(start))) if size <= limit else None


def read_many(places: Sequence[tuple[str, tuple[int, int] | None]]) -> list[bytes | OSError]:
    """Reads many small files or spans of one store, from an object store at the same time.

    Args:
        places: URI and span of each, as `read` takes them.

    Returns:
        For each place its bytes, or the error that `read` would have raised.

    Raises:
        StoreFault: the fault is not one file's.
    """
    if not places:
        return []
    fs, _ = locate(places[0][0])
    if isinstance(fs, LocalFileSystem):
        return [_read_or_error(*place) for place in places]
    results: list[bytes | OSError] = [b""] * len(places)
    wanted = [i for i, (_, span) in enumerate(places) if span is None or span[1] > 0]
    paths = [locate(places[i][0])[1] for i in wanted]
    spans = [places[i][1] for i in wanted]
    starts, ends = [span and span[0] for span in spans], [span and sum(span) for span in spans]
    for i, data in zip(wanted, fs.cat_ranges(paths, starts, ends, on_error="return"), strict=True):
        uri, span = places[i]
        try:
            if isinstance(data, Exception):
                raise data
            results[i] = data if span is None else _whole(data, uri, span)
        except StoreFault:
            raise
        except OSError as error:
            results[i] = error
    return results


def _read_or_error(uri: str, span: tuple[int, int] | None) -> bytes | OSError:
    try:
        return read(uri, span)
    except OSError as error:
        return error


def _whole(data: bytes, uri: str, span: tuple[int, int]) -> bytes:
    if len(data) != span[1]:  # fewer where the file was cut, more where a server has ignored the span
        raise OSError(f"{uri}: asked for {span[1]} bytes at {span[0]}, got {len(data)}; was the file cut or replaced?")
    return data


def open_binary(uri: str) -> BinaryIO:
    """Opens a file for reading from front to back, or here and there, in small memory.

    Raises:
        OSError: as the file system does.
    """
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        return open(path, "rb")
    return cast(BinaryIO, fs.open(path, "rb", block_size=BLOCK, cache_type="readahead"))


def write_atomic(uri: str, data: bytes) -> None:
    """Writes a file so that others see all of it or nothing, and makes its folder if need be."""
    fs, path = locate(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)  # an object appears only when its upload is complete
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _replacing(path) as file:
        file.write(data)


@contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    # Not the process's number: it may be the same on two machines that share a disk, above all in containers.
    partial = f"{path}.{uuid4().hex[:12]}.partial"
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # on a full disk it would be in the way
            os.unlink(partial)
        raise


@contextmanager
def atomic_writer(uri: str) -> Iterator[BinaryIO]:
    """Opens a file to be written bit by bit; others see it when the block has ended without an error, and then all."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _replacing(path) as file:
            yield file
        return
    upload = fs.open(path, "wb", autocommit=False)
    try:
        yield cast(BinaryIO, upload)
        upload.close()
    except BaseException:
        upload.discard()
        raise
    upload.commit()


def download_folder(uri: str, folder: str) -> None:
    """Copies the files right below a folder or URL into a local folder."""
    for file in list_files(uri):
        with open(os.path.join(folder, os.path.basename(file)), "wb") as copy:
            copy.write(read(file))


def download_tree(uri: str, folder: str) -> None:
    """Copies a folder or URL with all that is below it into a new local folder."""
    for file in list_files(uri):
        copy = os.path.join(folder, *_below(locate(file)[1], locate(uri)[1]))
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        locate(file)[0].get_file(locate(file)[1], copy)


def upload_folder(folder: str, uri: str) -> None:
    """Copies a local folder with all that is below it to a folder or URL."""
    for file in list_files(folder):
        upload_file(file, join(uri, os.path.relpath(file, folder)))


def upload_file(file: str, uri: str) -> None:
    """Copies a local file to a URL; it appears there when it is complete."""
    fs, path = locate(uri)
    fs.put_file(file, path)


def flush_folder(folder: str) -> None:
    """Returns when all below a local folder is on the disk and would survive a loss of power."""
    for file in list_files(folder):
        with open(file, "rb") as written:
            os.fsync(written.fileno())


def remove_folder(uri: str) -> None:
    """Deletes a folder and all below it; nothing happens where there is none."""
    fs, path = locate(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def remove(uri: str) -> None:
    """Deletes one file; nothing happens where there is none."""
    fs, path = locate(uri)
    if fs.exists(path):
        fs.rm_file(path)


def remove_partial(uri: str) -> None:
    """Deletes what killed writers have left half written below a local folder. Nobody may be writing there."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):  # an object store shows complete objects only
        for partial in fs.glob(f"{path}/**/*.partial"):
            fs.rm_file(partial)
