"""TIFF as museums keep their scans: 16 bits a channel, colour profile, EXIF. Pillow writes only 8 bits of RGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

_ICC_PROFILE = 34675
_POINTERS = (34665, 34853)
"""Tags whose value is the address of another directory: EXIF, GPS."""
_UNDEFINED = 7
_DEFLATE = 8
_HEADER = 8
"""Bytes before the first directory or pixel: byte order, version, address of the directory."""


def encode_tiff(image: np.ndarray, *, icc: bytes | None = None, exif: bytes = b"") -> bytes:
    """Encodes H×W×3 or H×W, uint8 or uint16, deflated without loss. Arguments as image.encode()."""
    pixels = image if image.ndim == 2 else image[..., ::-1]  # OpenCV has blue first
    done, encoded = cv2.imencode(".tiff", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, _DEFLATE])
    if not done:
        raise ValueError(f"OpenCV cannot write {image.shape} {image.dtype} as TIFF")
    tags: dict[int, Any] = {}
    if icc:
        tags[_ICC_PROFILE] = icc
    if exif:
        block = Image.Exif()
        block.load(exif)
        tags |= {tag: block.get_ifd(tag) if tag in _POINTERS else value for tag, value in block.items()}
    return with_tags(encoded.tobytes(), tags)


def with_tags(data: bytes, tags: Mapping[int, Any]) -> bytes:
    """Adds tags to a little-endian TIFF of one page whose pixels lie in strips; bytes become tags of type UNDEFINED.

    The new directory is put before everything else, so the pixels are moved and the old directory stays as dead bytes.
    """
    if data[:4] != b"II*\0":
        raise ValueError(f"tags are added to little-endian TIFF only, found a file that begins with {data[:4]!r}")
    file = io.BytesIO(data)
    directory = ImageFileDirectory_v2(prefix=b"II")
    file.seek(struct.unpack("<I", data[4:8])[0])
    directory.load(file)
    for tag in list(directory):
        directory[tag]  # decodes it: tobytes() writes only what was looked at
    pointed = TiffImageFile(io.BytesIO(data)).getexif()
    for tag in _POINTERS:
        if tag in directory:  # an address, which will not hold: read what is there
            directory[tag] = dict(pointed.get_ifd(tag))
    # Pillow adds the length of all that it writes to these, as for a file that it makes itself.
    offsets = directory[273]
    directory[273] = tuple(at - _HEADER for at in offsets)
    for tag, value in tags.items():
        if isinstance(value, bytes):
            directory.tagtype[tag] = _UNDEFINED
        directory[tag] = value
    head = data[:4] + struct.pack("<I", _HEADER)
    return head + directory.tobytes(_HEADER) + data[_HEADER:]
