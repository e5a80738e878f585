"""What a picture's EXIF says of it, and what of that still holds for an altered one, as render.source_xmp for XMP."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sized
from typing import Any

from PIL import ExifTags, Image

log = logging.getLogger(__name__)

MAX_BYTES = 65_533
"""Longest EXIF that fits into one segment of a JPEG."""

DESCRIPTIVE = (
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright),
    *(ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit),
)
"""Tags of the first directory that describe the picture. The others, of a TIFF, say where its pixels lie, and the
orientation has been applied."""

OF_THE_FILE = {
    ExifTags.Base.MakerNote,  # holds addresses within the file that it was made in
    ExifTags.IFD.Interop,  # an address; what it leads to names the standard of a camera's file
    ExifTags.Base.ExifImageWidth,
    ExifTags.Base.ExifImageHeight,
    ExifTags.Base.ColorSpace,  # the profile says it
}
"""Tags of the other directories that an altered picture does not keep."""


_FIRST = 0
"""Stands for the first directory, which has no number of its own."""

_Values = dict[tuple[int, int], Any]
"""By directory and tag."""


def kept_exif(image: Image.Image, name: str) -> bytes:
    """Returns what describes an opened picture, as Pillow's Exif.tobytes() gives it, or nothing.

    Of a block that would not fit into a JPEG the longest values are left out; a damaged block is left out as a whole.
    Both with a warning that names the picture.
    """
    try:
        kept = _descriptive(image.getexif())
        while len(block := _block(kept)) > MAX_BYTES:
            longest = max(kept, key=lambda place: _length(kept[place]))
            log.warning("%s: EXIF tag %d left out: a JPEG could not hold it with the others", name, longest[1])
            del kept[longest]
        return block
    except (OSError, SyntaxError, TypeError, ValueError, KeyError, struct.error) as error:
        log.warning("%s: EXIF block ignored: %s", name, error)
        return b""


def _descriptive(found: Image.Exif) -> _Values:
    kept: _Values = {(_FIRST, tag): found[tag] for tag in DESCRIPTIVE if tag in found}
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = found.get_ifd(directory)
        kept |= {(directory, tag): value for tag, value in values.items() if tag not in OF_THE_FILE}
    return kept


def _block(kept: _Values) -> bytes:
    exif = Image.Exif()
    for (directory, tag), value in kept.items():
        if directory == _FIRST:
            exif[tag] = value
        else:
            exif.setdefault(directory, {})[tag] = value
    return exif.tobytes() if len(exif) else b""


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 1
