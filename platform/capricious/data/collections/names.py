"""Collections whose file names are the labels: UTKFace and All-Age-Faces (AAF)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from capricious.data.collections.files import Files, basename, is_picture, suffix
from capricious.data.collections.source import UNKNOWN, Source
from capricious.faces.attributes import Attributes

_UTKFACE = re.compile(r"^(?P<age>\d{1,3})_(?:(?P<gender>[01]?)_)?\d?_\d{8,}[ .\w]*$")
_AAF = re.compile(r"^(?P<person>\d{5})A(?P<age>\d{2})\.\w+$")
_AAF_FIRST_MAN = 7381
"""In AAF, 00000…07380 are women and 07381…13321 men (its README)."""


def utkface_attributes(name: str) -> Attributes:
    """Reads ``[age]_[gender]_[race]_[date].jpg``, gender 0 male, 1 female.

    Where one of gender and race is missing, as in a few names of the set, it cannot be told which of the two
    is left: the gender is unknown then. Names of any other form tell nothing.

    Raises:
        ValueError: an impossible age.
    """
    match = _UTKFACE.match(name)
    if match is None:
        return UNKNOWN
    return Attributes(age=float(match["age"]), gender=1.0 - int(match["gender"]) if match["gender"] else None)


def aaf_attributes(name: str) -> Attributes:
    """Reads ``[person, 5 digits]A[age, 2 digits].jpg``; the number of the person tells the gender."""
    match = _AAF.match(name)
    if match is None:
        return UNKNOWN
    return Attributes(age=float(match["age"]), gender=float(int(match["person"]) >= _AAF_FIRST_MAN))


def read_utkface(files: Files) -> Iterator[Source]:
    """Yields all files, those with a name of UTKFace labelled."""
    return _read_names(files, files.names, utkface_attributes, "UTKFace: non-commercial research")


def read_aaf(files: Files) -> Iterator[Source]:
    """Yields all files but the release's own lists (.txt), those with a name of AAF labelled."""
    names = [name for name in files.names if suffix(name) != ".txt"]
    return _read_names(files, names, aaf_attributes, "All-Age-Faces: non-commercial research")


def are_utkface(names: Sequence[str]) -> bool:
    """Says whether all pictures among the names have names of UTKFace."""
    return _all_match(names, _UTKFACE)


def are_aaf(names: Sequence[str]) -> bool:
    """Says whether all pictures among the names have names of AAF."""
    return _all_match(names, _AAF)


def _all_match(names: Sequence[str], pattern: re.Pattern[str]) -> bool:
    return any(map(is_picture, names)) and all(pattern.match(basename(name)) for name in names if is_picture(name))


def _read_names(
    files: Files, names: Sequence[str], attributes: Callable[[str], Attributes], license: str
) -> Iterator[Source]:
    for name in names:
        source = files.source(name)
        try:
            yield source if source.refused else source.known(attributes(basename(name)), license)
        except ValueError as error:
            yield source.refuse("bad-label", f"{source.uri}: the name says that {error}")
