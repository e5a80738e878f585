"""A picture as its keeper made it: pixels at their own depth and in their own colours, with what describes them.

Faces are found and rendered in 8-bit sRGB. What is put back into a painting is put into the keeper's own pixels, so
that a 16-bit scan in Adobe RGB leaves as one, and whatever no face covers keeps its very value.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms

from capricious.errors import Rejection
from capricious.faces.deep import bits_of, decode_16_bit
from capricious.faces.formats import opened
from capricious.faces.image import MAX_PIXELS, QUICK, apply_profile, decode, encode, orientation_of, upright
from capricious.render.native_colours import native_colours
from capricious.render.source_exif import kept_exif

log = logging.getLogger(__name__)

COMPARED = 64
"""Rows, spread over a picture of 16 bits, in which its two readings must agree."""


@dataclass(frozen=True, eq=False, repr=False)  # arrays neither compare nor print well
class Scan:
    """A decoded picture file.

    Attributes:
        srgb: H×W×3 uint8, upright: what faces are found in.
        native: H×W×3 uint8 or uint16 in the file's own colours; None where these are srgb's.
        icc: the file's RGB profile, which says what `native` means; None for sRGB.
        exif: what describes the picture, see render.source_exif, or nothing.
        xmp: the file's XMP packet as it was found, or nothing; render.source_xmp says what of it is kept.
    """

    srgb: np.ndarray
    native: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes = b""
    xmp: bytes = b""

    @property
    def depth(self) -> int:
        """Bits per channel, 8 or 16."""
        return 8 if self.native is None else 8 * self.native.itemsize

    def copy(self) -> Scan:
        """Returns one that may be painted over."""
        return self.part(slice(None), slice(None))

    def add(self, rows: slice, columns: slice, change: np.ndarray) -> None:
        """Adds h×w×3 float32 of sRGB levels, −255…255, in place; where it is 0 every value stays."""
        window = self.srgb[rows, columns]
        wanted = np.clip(window + change, 0.0, 255.0)
        after = np.rint(wanted).astype(np.uint8)
        if self.native is not None:
            below = self.native[rows, columns]
            colours = None if self.icc is None else native_colours(self.icc)
            step = wanted - window if colours is None else colours(wanted) - colours(window)
            white = np.float32(65535.0 if self.depth == 16 else 255.0)
            below[:] = np.rint(np.clip(below + step * (white / 255), 0.0, white)).astype(below.dtype)
        window[:] = after

    def move(self, rows: slice, columns: slice, places: np.ndarray, before: Scan) -> None:
        """Takes the pixels of a window from elsewhere, in place: bicubic, at the picture's own depth.

        Args:
            rows, columns: the window.
            places: h×w×2 float32 (x, y), where in `before` each pixel comes from, centres at whole numbers. Where that
                is its own place every value stays.
            before: a part of the picture as it was, or all of it.
        """
        x, y = places[..., 0].copy(), places[..., 1].copy()
        for here, there in ((self.srgb, before.srgb), (self.native, before.native)):
            if here is not None and there is not None:
                here[rows, columns] = cv2.remap(there, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def part(self, rows: slice, columns: slice) -> Scan:
        """Returns a copy of a window, which may be painted over."""
        native = None if self.native is None else self.native[rows, columns].copy()
        return replace(self, srgb=self.srgb[rows, columns].copy(), native=native)

    def encode(self, format: str, quality: int = 92) -> bytes:
        """Returns the picture as a "png", "jpeg", "webp" or "tiff" with its profile and EXIF; tiff keeps 16 bits."""
        pixels = self.srgb if self.native is None else self.native
        if pixels.dtype == np.uint16 and format != "tiff":
            pixels = np.rint(pixels / np.float32(257.0)).astype(np.uint8)
        return encode(pixels, format, quality, icc=self.icc, exif=self.exif, compression=QUICK)


def read_scan(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Scan:
    """Decodes a picture from an untrusted source, as image.decode() does, and keeps what that leaves behind.

    RGB files keep depth and profile. All others (CMYK, Lab, grey, palette, with transparency, of 12 bits, with a
    profile that leads one way only) become 8-bit sRGB.

    Raises:
        Rejection: as image.decode().
    """
    srgb = decode(data, name=name, max_pixels=max_pixels)
    with opened(data) as image:
        exif, xmp = kept_exif(image, name), _xmp(image)
        bits = bits_of(image, data)
        if image.mode != "RGB" or image.has_transparency_data or bits not in (8, 16):
            return Scan(srgb, exif=exif, xmp=xmp)
        icc = _rgb_profile(image.info.get("icc_profile"))
        if icc is not None and not _leads_back(icc):
            log.warning("%s: its profile leads out of its colours and not back, so it becomes 8-bit sRGB", name)
            return Scan(srgb, exif=exif, xmp=xmp)
        native = None
        if bits == 16:
            native = _sixteen_bits(image, data, name)
            if native is None or not _shows(native, icc, srgb, name):
                raise Rejection("decode", "unsupported-depth", f"{name}: its 16 bits per channel cannot be read")
        elif icc is not None:
            image.load()  # turns a TIFF, which then no longer asks for it
            native = upright(np.array(image), orientation_of(image, name))
    return Scan(srgb, native, icc, exif, xmp)


def _xmp(image: Image.Image) -> bytes:
    found = image.info.get("xmp", b"")
    return found.encode() if isinstance(found, str) else bytes(found)


def _sixteen_bits(image: Image.Image, data: bytes, name: str) -> np.ndarray | None:
    pixels = decode_16_bit(data)
    if pixels is None or ExifTags.Base.Orientation in getattr(image, "tag_v2", {}):  # no RGB, or a TIFF that was turned
        return pixels
    return upright(pixels, orientation_of(image, name))


def _shows(native: np.ndarray, icc: bytes | None, srgb: np.ndarray, name: str) -> bool:
    """Returns whether two readers, OpenCV and Pillow, saw the same picture, by some of its rows."""
    if native.shape != srgb.shape:
        return False
    some = np.s_[:: max(1, len(srgb) // COMPARED)]
    high = Image.fromarray((native[some] >> 8).astype(np.uint8))  # all that Pillow reads
    return bool(np.abs(np.asarray(apply_profile(high, icc, name)).astype(int) - srgb[some]).mean() < 1.0)


def _rgb_profile(icc: bytes | None) -> bytes | None:
    """Returns a profile if it can be read and is of RGB colours; decode() has warned of others."""
    if not icc:
        return None
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile.xcolor_space
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return icc if space.strip() == "RGB" else None


def _leads_back(icc: bytes) -> bool:
    """Returns whether a profile also says how its colours are made; that of a scanner may not."""
    try:
        native_colours(icc)
    except ImageCms.PyCMSError:
        return False
    return True
