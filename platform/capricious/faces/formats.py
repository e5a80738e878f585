"""Which formats are accepted, how they are told, and by which of Pillow's classes they are opened.

The format is read from the content, never from the name.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from capricious.faces import jpeg2000


class _TiffFile(TiffImagePlugin.TiffImageFile):
    """TIFF without Pillow's own pixel limit, which is one global for the whole process.

    decode() has checked its own limit before; changing the global would race with other threads.
    """

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = Image.new(self.mode, self._tile_size).im
        ImageFile.ImageFile.load_prepare(self)


class _Jpeg2000File(Jpeg2KImagePlugin.Jpeg2KImageFile):
    """JPEG 2000 with its colour profile."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        icc = jpeg2000.icc_profile(file.getvalue())
        if icc is not None:
            self.info["icc_profile"] = icc


def format_of(data: bytes) -> str:
    """Names the format by its first bytes, also of files that are not accepted; "" if they say nothing."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return "AVIF" if data[8:12] in (b"avif", b"avis") else "HEIF or MP4"
    for name, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return name
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<?xml", b"<svg", b"<!doctype svg")) and b"<svg" in data[:8192].lower():
        return "SVG"
    return "HTML or XML" if start.startswith((b"<!doctype", b"<html", b"<?xml")) else ""


_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "JPEG 2000": (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
    "PDF": (b"%PDF",),
    "PostScript": (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "Photoshop": (b"8BPS",),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "gzip": (b"\x1f\x8b",),
    "zip": (b"PK\x03\x04",),
}

# The whitelist. Opening one of these parses the header only; decoding happens in load(). The classes are
# called directly because Image.open() tries every registered plugin (some start other programs) and
# applies the global limit. PostScript, PDF and SVG are left out: they are programs, not pixels.
OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,  # also MPO, of which it reads the first picture
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": _TiffFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "JPEG 2000": _Jpeg2000File,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
FORMATS = tuple(OPENERS)
"""Names of the formats that decode() accepts."""


def opened(data: bytes) -> ImageFile.ImageFile:
    """Opens a file that decode() has accepted: its header and metadata, no pixels yet."""
    return OPENERS[format_of(data)](io.BytesIO(data))
