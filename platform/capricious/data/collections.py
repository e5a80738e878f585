"""Collections of pictures, and what their keepers already know of the sitters.

A collection is a folder (local or ``s3://``) or one picture. Labels come from one of:

- ``labels.csv`` in the folder: a column ``file`` and any of ``age`` (or ``age_at_sitting``), ``gender`` (or
  ``sex``), ``glasses``, ``smile``, ``rights``. A file that is named there but missing is listed all the same,
  and rejected when it cannot be read.
- UTKFace file names: ``[age]_[gender]_[race]_[date].jpg``, gender 0 male, 1 female.
- FFHQ's feature files: ``NNNNN.json`` (Microsoft Face API) beside ``NNNNN.png`` or in a folder ``json/``.
- AffectNet's CSV: ``subDirectory_filePath`` and ``expression`` 0…7 in the order of EMOTIONS.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from capricious.data import storage
from capricious.errors import CapriciousError
from capricious.faces.attributes import EMOTIONS, Attributes, parse_gender

Kind = Literal["auto", "folder", "csv", "utkface", "ffhq", "affectnet"]
LABELS_FILE = "labels.csv"


@dataclass(frozen=True)
class Source:
    """One file of a collection: where it is and what is known of its (largest) sitter."""

    uri: str
    labels: Attributes = field(default_factory=Attributes)
    license: str = ""


def read_collection(uri: str, kind: Kind = "auto") -> list[Source]:
    """Lists a collection with its labels, sorted by address; every file is listed, pictures or not.

    Files that are no pictures stay in, except those that were read as labels: the next stage rejects them
    with a reason, so that every file of a collection is accounted for.

    Raises:
        CapriciousError: nothing there, or a label file that cannot be understood (named, with the line).
    """
    files = storage.list_files(uri)
    by_name = {PurePosixPath(f).name: f for f in files}
    if kind == "auto":
        kind = _guess(by_name)
    return _READERS[kind](uri, files)


def _guess(names: Mapping[str, str]) -> Kind:
    if LABELS_FILE in names:
        return "csv"
    pictures = [n for n in names if n.lower().endswith((".jpg", ".jpeg", ".png"))]
    if pictures and all(_UTKFACE.match(n) for n in pictures):
        return "utkface"
    return "folder"


def _read_folder(uri: str, files: list[str]) -> list[Source]:
    return [Source(f) for f in files]


def _read_csv(uri: str, files: list[str]) -> list[Source]:
    table = next((f for f in files if PurePosixPath(f).name == LABELS_FILE), None)
    if table is None:
        raise CapriciousError(f"{uri} has no {LABELS_FILE}; name the pictures and their labels there")
    folder = table[: -len(LABELS_FILE)]
    labels: dict[str, tuple[Attributes, str]] = {}
    for line, row in _rows(table):
        try:
            labels[folder + row["file"]] = (_csv_attributes(row), row.get("rights") or "")
        except (KeyError, ValueError) as error:
            raise CapriciousError(f"{table}, line {line}: {error}") from error
    unlabelled = (Attributes(), "")
    return [Source(f, *labels.get(f, unlabelled)) for f in sorted({*files, *labels} - {table})]


def _csv_attributes(row: Mapping[str, str]) -> Attributes:
    def number(*names: str) -> float | None:
        text = next((row[n] for n in names if row.get(n)), "")
        return float(text) if text else None

    return Attributes(
        age=number("age", "age_at_sitting"),
        gender=parse_gender(row.get("gender") or row.get("sex") or ""),
        glasses=row.get("glasses") or None,
        smile=number("smile"),
    )


_UTKFACE = re.compile(r"^(?P<age>\d{1,3})_(?P<gender>[01])_\d_\d+\.\w+")


def _read_utkface(uri: str, files: list[str]) -> list[Source]:
    def source(file: str) -> Source:
        match = _UTKFACE.match(PurePosixPath(file).name)
        # A few files of the set lack a field in their name: they stay in, unlabelled.
        known = Attributes(age=float(match["age"]), gender=1.0 - int(match["gender"])) if match else Attributes()
        return Source(file, known, "UTKFace: non-commercial research")

    return [source(f) for f in files]


_FACE_API_GLASSES = {
    "NoGlasses": "none",
    "ReadingGlasses": "reading",
    "Sunglasses": "sun",
    "SwimmingGoggles": "sun",
}
_FACE_API_EMOTIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")


def ffhq_attributes(features: bytes) -> Attributes:
    """Reads one FFHQ feature file: a list of faces, possibly empty; the first is the sitter.

    Raises:
        ValueError: not the format of the Microsoft Face API.
    """
    faces = json.loads(features)
    if not faces:
        return Attributes()
    try:
        found = faces[0]["faceAttributes"]
        emotion = tuple(float(found["emotion"][name]) for name in _FACE_API_EMOTIONS)
        return Attributes(
            age=float(found["age"]),
            gender=parse_gender(found["gender"]),
            glasses=_FACE_API_GLASSES[found["glasses"]],
            smile=float(found["smile"]),
            emotion=emotion,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a feature file of the Microsoft Face API: missing {error}") from error


def _read_ffhq(uri: str, files: list[str]) -> list[Source]:
    features = {PurePosixPath(f).stem: f for f in files if f.endswith(".json")}

    def source(file: str) -> Source:
        described_by = features.get(PurePosixPath(file).stem)
        if described_by is None:
            return Source(file, license="FFHQ: CC BY-NC-SA 4.0")
        try:
            return Source(file, ffhq_attributes(storage.read(described_by)), "FFHQ: CC BY-NC-SA 4.0")
        except ValueError as error:
            raise CapriciousError(f"{described_by}: {error}") from error

    return [source(f) for f in files if not f.endswith(".json")]


def _read_affectnet(uri: str, files: list[str]) -> list[Source]:
    tables = [f for f in files if f.endswith(".csv")]
    labels: dict[str, Attributes] = {}
    for table in tables:
        for line, row in _rows(table):
            try:
                expression = int(row["expression"])
            except (KeyError, ValueError) as error:
                raise CapriciousError(f"{table}, line {line}: {error}") from error
            # 8 none, 9 uncertain, 10 no face: nothing is known.
            known = expression < len(EMOTIONS)
            one_hot = tuple(float(expression == i) for i in range(len(EMOTIONS)))
            labels[row["subDirectory_filePath"]] = Attributes(emotion=one_hot) if known else Attributes()

    def source(file: str) -> Source:
        path = PurePosixPath(file)
        return Source(file, labels.get(f"{path.parent.name}/{path.name}", Attributes()), "AffectNet: research only")

    return [source(f) for f in files if f not in tables]


def _rows(table: str) -> list[tuple[int, dict[str, Any]]]:
    text = storage.read(table).decode("utf-8-sig")
    return list(enumerate(csv.DictReader(io.StringIO(text)), start=2))


_READERS: dict[Kind, Callable[[str, list[str]], list[Source]]] = {
    "folder": _read_folder,
    "csv": _read_csv,
    "utkface": _read_utkface,
    "ffhq": _read_ffhq,
    "affectnet": _read_affectnet,
}
