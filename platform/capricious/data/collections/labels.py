"""From the words that keepers of collections use to Attributes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from capricious.faces.attributes import EMOTIONS, Attributes, parse_gender

LABEL_COLUMNS = ("age", "age_at_sitting", "gender", "sex", "glasses", "smile", "emotion")
LICENSE_COLUMNS = ("rights", "license")

_GLASSES = {
    "none": "none",
    "reading": "reading",
    "sun": "sun",
    # Microsoft's Face API, as in FFHQ's features
    "noglasses": "none",
    "readingglasses": "reading",
    "sunglasses": "sun",
    "swimminggoggles": "sun",
}
_FACE_API_EMOTIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
_EMOTION_INDEX = {word: i for names in (EMOTIONS, _FACE_API_EMOTIONS) for i, word in enumerate(names)}


def row_attributes(row: Mapping[str, Any]) -> Attributes:
    """Reads a row of a table (texts of a CSV file, or typed values), or a JSON object with the same names.

    Names: ``age`` (or ``age_at_sitting``), ``gender`` (or ``sex``): female or male, ``glasses``, ``smile`` 0…1,
    ``emotion``: a word of EMOTIONS, or their eight probabilities. What is missing or empty is unknown.

    Raises:
        ValueError: an impossible value; says which and what is allowed.
    """
    gender = _first(row, "gender", "sex")
    glasses = _first(row, "glasses")
    emotion = _first(row, "emotion")
    return Attributes(
        age=_number("age", _first(row, "age", "age_at_sitting")),
        # A number could mean either: some sets count female as 0, others as 1.
        gender=None if gender is None else parse_gender(str(gender)),
        glasses=None if glasses is None else _glasses(str(glasses)),
        smile=_number("smile", _first(row, "smile")),
        emotion=None if emotion is None else _emotion(emotion),
    )


def row_license(row: Mapping[str, Any], columns: Sequence[str] = LICENSE_COLUMNS) -> str:
    """Returns the license that a row gives, or an empty text."""
    return str(_first(row, *columns) or "")


def json_labels(data: bytes, license_columns: Sequence[str] = LICENSE_COLUMNS) -> tuple[Attributes, str]:
    """Reads the attributes and the license from JSON: an object as a row, or a feature file of FFHQ, a list of faces,
    possibly empty, of which the largest is the sitter.

    Raises:
        ValueError: no JSON, or an impossible value.
    """
    try:
        found = json.loads(data)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if isinstance(found, list) or (isinstance(found, dict) and "faceAttributes" in found):
        return _face_api_attributes(found if isinstance(found, list) else [found]), ""
    if isinstance(found, dict):
        return row_attributes(found), row_license(found, license_columns)
    raise ValueError(f"must be an object or a list of faces, found: {type(found).__name__}")


def _face_api_attributes(faces: list[Any]) -> Attributes:
    if not faces:
        return Attributes()
    try:
        found = max(faces, key=_face_area)["faceAttributes"]
        return Attributes(
            age=_number("age", found["age"]),
            gender=parse_gender(str(found["gender"])),
            glasses=_glasses(str(found["glasses"])),
            smile=_number("smile", found["smile"]),
            emotion=_emotion([found["emotion"][name] for name in _FACE_API_EMOTIONS]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a feature file of the Microsoft Face API: missing {error}") from error


def _face_area(face: Mapping[str, Any]) -> float:
    rectangle = face.get("faceRectangle") or {"width": 0, "height": 0}
    return rectangle["width"] * rectangle["height"]


def _first(row: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        value = row.get(name)
        value = value.strip() if isinstance(value, str) else value
        missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        if not missing:
            return value
    return None


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} must be a number, found: {value!r}")
    try:
        return float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be a number, found: {value!r}") from error


def _glasses(word: str) -> str:
    kind = _GLASSES.get(word.lower())
    if kind is None:
        raise ValueError(f"glasses must be none, reading or sun, found: {word!r}")
    return kind


def _emotion(value: Any) -> tuple[float, ...]:
    if isinstance(value, str):
        index = _EMOTION_INDEX.get(value.lower())
        if index is None:
            raise ValueError(f"emotion must be one of {', '.join(EMOTIONS)}, found: {value!r}")
        return tuple(float(i == index) for i in range(len(EMOTIONS)))
    if not isinstance(value, list | tuple):
        raise ValueError(f"emotion must be a word or {len(EMOTIONS)} probabilities, found: {value!r}")
    shares = tuple(_number("emotion", share) for share in value)
    if not all(share is not None and 0 <= share <= 1 for share in shares):
        raise ValueError(f"emotion needs probabilities in 0…1, found: {value!r}")
    return tuple(share for share in shares if share is not None)
