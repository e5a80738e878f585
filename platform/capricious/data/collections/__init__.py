"""Collections of pictures, and what their keepers already know of the sitters.

One function, `read_collection`, and what it yields, `Source`. Each kind has a file of its own here, and a line in
docs/collections.md. Collections lie on a local disk, in an object store (``s3://…``), or, IIIF, on the web.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from capricious.data import storage
from capricious.data.ahead import ahead
from capricious.data.collections import web
from capricious.data.collections.affectnet import read_affectnet
from capricious.data.collections.files import Files, Folder, basename, suffix
from capricious.data.collections.iiif import read_iiif
from capricious.data.collections.labels import LICENSE_COLUMNS
from capricious.data.collections.names import are_aaf, are_utkface, read_aaf, read_utkface
from capricious.data.collections.parquet import read_parquet
from capricious.data.collections.sidecars import read_ffhq, read_samples
from capricious.data.collections.source import SOURCE_SCHEMA, Source
from capricious.data.collections.table import LABELS_FILE, read_labelled, read_table
from capricious.data.collections.tar import Tar
from capricious.errors import CapriciousError, StoreFault

__all__ = ["SOURCE_SCHEMA", "Kind", "Source", "read_collection"]

Kind = Literal["auto", "folder", "csv", "parquet", "webdataset", "utkface", "aaf", "ffhq", "affectnet", "iiif"]


def read_collection(uri: str, kind: Kind = "auto", rights_column: str = "") -> Iterator[Source]:
    """Yields the inputs of a collection with their labels, in the same order each time, each once.

    Memory holds the files' names, not their labels. Files that are no pictures stay in, except those that were read as
    labels: the next stage rejects them with a reason, so that every file of a collection is accounted for. A label that
    is impossible refuses its picture (stage "read", reason "bad-label"), not the collection.

    Args:
        uri: a folder, an ``s3://`` prefix, one picture, a ``.tar``, ``.parquet`` or ``.csv`` file, or the address of a
            IIIF manifest or collection.
        kind: how it is labelled. "auto" sees it from the names: see docs/collections.md.
        rights_column: of its tables, where that is neither "rights" nor "license".

    Raises:
        CapriciousError: nothing there, or (at any time while iterating) a table that cannot be understood, named with
            its line.
    """
    return map(_writable, _read(uri, kind, (rights_column.lower(),) if rights_column else LICENSE_COLUMNS))


def _read(uri: str, kind: Kind, license_columns: Sequence[str]) -> Iterator[Source]:
    ending = suffix(uri)
    if web.is_url(uri) or kind == "iiif":
        if kind not in ("auto", "iiif"):
            raise CapriciousError(f"of kind {kind}, a collection must be a path or s3://…, found: {uri}")
        return read_iiif(uri if web.is_url(uri) else storage.absolute(uri))
    if ending in (".tgz", ".gz") and uri.endswith((".tar.gz", ".tgz")):
        raise CapriciousError(f"{uri} is compressed, so its pictures cannot be read in place; gunzip it to a .tar")
    folder = Folder(uri, license_columns=license_columns)
    is_file = list(folder.names) == [storage.absolute(uri)]
    if is_file and ending == ".csv" and kind in ("auto", "csv"):
        return read_table(folder, folder.names[0])
    if is_file and ending == ".tar":
        return _read_tar(folder.names[0], _open_tar(folder.names[0], license_columns), kind)
    return _READERS[_guess(folder.names) if kind == "auto" else kind](folder)


def _guess(names: Sequence[str]) -> Kind:
    if any(basename(name) == LABELS_FILE for name in names):
        return "csv"
    if any(name.lower().endswith(".parquet") for name in names):
        return "parquet"
    if any(name.lower().endswith(".tar") for name in names):
        return "webdataset"
    if any(_AFFECTNET_TABLE.search(name) for name in names):
        return "affectnet"
    if any(_FFHQ_FOLDER.search(name) for name in names):
        return "ffhq"
    if are_utkface(names):
        return "utkface"
    return "aaf" if are_aaf(names) else "folder"


_AFFECTNET_TABLE = re.compile(r"(?i)(manually|automatically)_annotated[^/]*/[^/]*\.csv$")
_FFHQ_FOLDER = re.compile(r"(^|/)(ffhq-features|images1024x1024)/")


def _read_webdataset(folder: Files) -> Iterator[Source]:
    """Yields the members of all tars below a folder, then the other files."""
    tars = [name for name in folder.names if suffix(name) == ".tar"]
    opened = ahead(lambda name: _open_tar(name, folder.license_columns), tars)
    for name, tar in zip(tars, opened, strict=True):
        yield from _read_tar(name, tar, "auto")
    rest = [name for name in folder.names if suffix(name) != ".tar"]
    yield from read_samples(Folder(folder.uri, rest, folder.license_columns))


def _open_tar(uri: str, license_columns: Sequence[str]) -> Tar | OSError:
    try:
        return Tar(uri, license_columns)
    except StoreFault:
        raise
    except OSError as error:
        return error


def _read_tar(uri: str, tar: Tar | OSError, kind: Kind) -> Iterator[Source]:
    """Yields the pictures of one tar, labelled as a folder of its members would be."""
    if isinstance(tar, OSError):
        yield Source(uri).refuse("bad-tar", str(tar))
        return
    kind = _guess(tar.names) if kind == "auto" else kind
    # A tar in a tar, or Parquet in it, could not be read in place.
    read = read_samples if kind in ("folder", "parquet", "webdataset") else _READERS[kind]
    yield from read(tar)
    if tar.fault is not None:
        yield Source(uri).refuse("bad-tar", f"nothing can be read after {len(tar.names)} members: {tar.fault}")


def _writable(source: Source) -> Source:
    """Refuses a file whose name is not Unicode, because no table could name it; escapes what is not in a license."""
    uri, license = _escaped(source.uri), _escaped(source.license)
    if uri != source.uri:
        return Source(uri).refuse("bad-name", "the file's name is not UTF-8; rename it")
    return source if license == source.license else replace(source, license=license)


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


_READERS: dict[Kind, Callable[[Files], Iterator[Source]]] = {
    "folder": lambda files: map(files.source, files.names),
    "csv": read_labelled,
    "parquet": read_parquet,
    "webdataset": _read_webdataset,
    "utkface": read_utkface,
    "aaf": read_aaf,
    "ffhq": read_ffhq,
    "affectnet": read_affectnet,
}
