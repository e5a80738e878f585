"""Pictures with their labels in JSON files beside them: WebDataset samples, and FFHQ with its feature files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from capricious.data.collections.files import Checklist, Files, batches, is_picture, suffix
from capricious.data.collections.labels import json_labels
from capricious.data.collections.source import Source

READ_TOGETHER = 256
"""Sidecars that are read at a time, from an object store all at once."""


def read_samples(files: Files) -> Iterator[Source]:
    """Yields the pictures of WebDataset samples, which are files of one name but for the ending.

    The ``.json`` of a sample labels its pictures (labels.json_labels). Its ``.cls`` and ``.txt`` have no meaning
    that is agreed on and are passed over. Files that belong to no picture stay in, to be rejected.
    """
    checklist = Checklist(files.names)
    pictures = [name for name in files.names if is_picture(name)]
    for picture in pictures:
        checklist.tick(picture)
        for ending in (".json", ".cls", ".txt"):
            sidecar = _beside(picture, ending, checklist)
            if sidecar is not None:
                checklist.tick(sidecar)
    yield from _with_json(files, pictures, lambda picture: _beside(picture, ".json", checklist))
    for name in checklist.unticked():
        yield files.source(name)


def _beside(picture: str, ending: str, checklist: Checklist) -> str | None:
    folder, slash, file = picture.rpartition("/")
    # WebDataset's samples share what is before the first dot, other people's all but the ending.
    for stem in (file.rpartition(".")[0], file.partition(".")[0]):
        name = folder + slash + stem + ending
        if name in checklist:
            return name
    return None


def read_ffhq(files: Files) -> Iterator[Source]:
    """Yields all files but JSON, each labelled by the feature file of its number, wherever that lies.

    A picture without a feature file, or with an empty one (no face was found in it), stays in, unlabelled.
    """
    features = {PurePosixPath(name).stem: name for name in files.names if suffix(name) == ".json"}
    others = [name for name in files.names if suffix(name) != ".json"]
    for source in _with_json(files, others, lambda name: features.get(PurePosixPath(name).stem)):
        yield source.known(source.labels, "FFHQ: CC BY-NC-SA 4.0")


def _with_json(files: Files, names: Sequence[str], sidecar: Callable[[str], str | None]) -> Iterator[Source]:
    for batch in batches(names, READ_TOGETHER):
        sidecars = {name: found for name in batch if (found := sidecar(name)) is not None}
        wanted = sorted(set(sidecars.values()))
        contents = dict(zip(wanted, files.read_many(wanted), strict=True))
        for name in batch:
            source = files.source(name)
            if name in sidecars and not source.refused:
                where = files.address(sidecars[name])
                source = _labelled(source, where, contents[sidecars[name]], files.license_columns)
            yield source


def _labelled(source: Source, sidecar: str, content: bytes | OSError, license_columns: Sequence[str]) -> Source:
    if isinstance(content, OSError):
        return source.refuse("bad-label", f"{sidecar}: {content}")
    try:
        return source.known(*json_labels(content, license_columns))
    except ValueError as error:
        return source.refuse("bad-label", f"{sidecar}: {error}")
