"""AffectNet (Mollahosseini et al. 2017): a million faces with expressions, in CSV files of millions of rows."""

from __future__ import annotations

from collections.abc import Iterator

from capricious.data.collections.files import Checklist, Files, is_picture, suffix
from capricious.data.collections.source import UNKNOWN, Source
from capricious.data.collections.table import csv_rows
from capricious.errors import CapriciousError
from capricious.faces.attributes import EMOTIONS, Attributes

COLUMNS = (
    "subDirectory_filePath",
    *("face_x", "face_y", "face_width", "face_height"),
    "facial_landmarks",
    *("expression", "valence", "arousal"),
)
"""Columns of its tables, some of which come without a header."""

LICENSE = "AffectNet: non-commercial research"
NO_FACE = 10
_EXPRESSIONS = (
    # 0…7 are in the order of EMOTIONS; 8 none of these, 9 uncertain
    *(Attributes(emotion=tuple(float(i == e) for i in range(len(EMOTIONS)))) for e in range(len(EMOTIONS))),
    UNKNOWN,
    UNKNOWN,
)


def read_affectnet(files: Files) -> Iterator[Source]:
    """Yields the pictures that the tables name, those annotated by people first, then the files that none names.

    Emotion is known for expressions 0…7; 8 (none) and 9 (uncertain) stay in without; 10 (no face) is refused.

    Raises:
        CapriciousError: no table, or one that cannot be understood.
    """
    tables = [name for name in files.names if suffix(name) == ".csv"]
    if not tables:
        raise CapriciousError(f"{files.uri} has no .csv file of AffectNet; point to the folder above its file lists")
    if not any(map(is_picture, files.names)):
        raise CapriciousError(f"{files.uri} has no pictures; point to the folder above the pictures and the file lists")
    return _read_tables(files, sorted(tables, key=lambda name: ("automatic" in name.lower(), name)))


def _read_tables(files: Files, tables: list[str]) -> Iterator[Source]:
    checklist = Checklist(files.names)
    for table in tables:
        checklist.tick(table)
    # Tables name a picture by its last folder and file: 689/abc.jpg. Where those folders lie differs.
    folders = sorted({_above(name) for name in files.names if is_picture(name)})
    for table in tables:
        for path, expression, where in _rows(files, table):
            named = [name for name in (folder + path for folder in folders) if name in checklist]
            for name in named or [folders[0] + path]:
                if checklist.tick(name):
                    yield _labelled(files.source(name), expression, where)
    for name in checklist.unticked():
        yield files.source(name).known(UNKNOWN, LICENSE)


def _above(name: str) -> str:
    """Returns what is before the last folder of a file's name."""
    return name[: len(name) - len("/".join(name.rsplit("/", 2)[-2:]))]


def _rows(files: Files, table: str) -> Iterator[tuple[str, str, str]]:
    """Yields path and expression as they are written, and where."""
    address = files.address(table)
    with files.open(table) as stream:
        columns = list(COLUMNS)
        for line, values in csv_rows(stream, address):
            if COLUMNS[0] in values:
                columns = values
                continue
            if "expression" not in columns or (line == 1 and len(values) != len(columns)):
                raise CapriciousError(
                    f"{address}, line {line}: not a table of AffectNet; its columns are {', '.join(COLUMNS)}, "
                    f"found: {', '.join(values)[:200]}"
                )
            row = dict(zip(columns, values, strict=False))
            yield row[COLUMNS[0]], row.get("expression", ""), f"{address}, line {line}"


def _labelled(source: Source, expression: str, where: str) -> Source:
    if source.refused:
        return source
    if not expression.strip().isdecimal() or int(expression) > NO_FACE:
        return source.refuse("bad-label", f"{where}: expression must be 0…{NO_FACE}, found: {expression!r}")
    if int(expression) == NO_FACE:
        return source.refuse("labelled-no-face", f"{where}: AffectNet's annotators saw no face (expression {NO_FACE})")
    return source.known(_EXPRESSIONS[int(expression)], LICENSE)
