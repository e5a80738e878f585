"""RGB of 16 bits a channel, of which Pillow gives 8: read by OpenCV, after Pillow has accepted the file."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import ExifTags, Image

from capricious.faces import jpeg2000


def bits_of(image: Image.Image, data: bytes) -> int:
    """Returns the bits per channel of an opened file, as its header says; 8 where its format has no others."""
    if image.format == "PNG":
        return data[24]  # of IHDR, which is always first
    if image.format == "JPEG2000":
        return jpeg2000.bits_per_channel(data)
    return max(getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (8,)))


def decode_16_bit(data: bytes) -> np.ndarray | None:
    """Returns the pixels of an RGB file of 16 bits a channel, H×W×3 uint16, or None if it is none.

    No colour profile is applied. A TIFF is turned as its tag asks for; any other file lies as it was stored, because
    OpenCV knows fewer places than Pillow where an orientation may be written.
    """
    as_stored = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), as_stored)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    return np.ascontiguousarray(pixels[..., ::-1])
