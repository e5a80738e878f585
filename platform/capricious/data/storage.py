"""Files on a local disk or in an object store, by one name: a path or a URL such as ``s3://bucket/key``.

Credentials and endpoints come from the environment alone (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …).
"""

from __future__ import annotations

import os
from functools import lru_cache

import fsspec
from fsspec.implementations.local import LocalFileSystem

from capricious.errors import CapriciousError

SCHEMES = ("file", "s3")


@lru_cache(maxsize=16)
def _filesystem(scheme: str) -> fsspec.AbstractFileSystem:
    if scheme not in SCHEMES:
        raise CapriciousError(f"cannot open {scheme}:// addresses; must be a path or one of {', '.join(SCHEMES)}")
    return fsspec.filesystem(scheme)


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


def list_files(uri: str) -> list[str]:
    """Lists all files under a folder, sorted, as URIs that `read` takes. Hidden files are left out.

    Raises:
        CapriciousError: there is no such file or folder.
    """
    fs, path = locate(uri)
    if not fs.exists(path):
        raise CapriciousError(f"there is no file or folder at {uri}")
    if fs.isfile(path):
        return [absolute(uri)]
    prefix = "" if isinstance(fs, LocalFileSystem) else f"{uri.partition('://')[0]}://"
    return [
        prefix + found for found in sorted(fs.find(path)) if not any(p.startswith(".") for p in _below(found, path))
    ]


def _below(found: str, folder: str) -> list[str]:
    return found[len(folder) :].strip("/").split("/")


def exists(uri: str) -> bool:
    """Says whether there is a file or folder at `uri`."""
    fs, path = locate(uri)
    return bool(fs.exists(path))


def read(uri: str) -> bytes:
    """Reads a whole file. Raises OSError as the file system does."""
    fs, path = locate(uri)
    return fs.cat_file(path)


def write_atomic(uri: str, data: bytes) -> None:
    """Writes a file so that others see all of it or nothing, and makes its folder if need be."""
    fs, path = locate(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)  # an object appears only when its upload is complete
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial"
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def download_folder(uri: str, folder: str) -> None:
    """Copies the files right below a folder or URL into a local folder."""
    for file in list_files(uri):
        with open(os.path.join(folder, os.path.basename(file)), "wb") as copy:
            copy.write(read(file))
