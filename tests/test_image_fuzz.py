"""2,000 damaged pictures through the decoder: each gives pixels or a Rejection, and none takes the process down."""

import io
import subprocess
import sys

import cv2
import numpy as np
from PIL import Image

from capricious.errors import Rejection
from capricious.faces.image import decode

PICTURES = 2000


def whole_pictures() -> list[bytes]:
    """The same small picture in each format and mode that collections hold."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    pixels[8:40, 8:56] = np.linspace(40, 220, 48, dtype=np.uint8)[None, :, None]
    rgb = Image.fromarray(pixels)
    forms = [
        (rgb, "JPEG", {"exif": _rotated()}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", {}),
        (rgb.convert("RGBA"), "PNG", {}),
        (rgb.convert("P"), "PNG", {}),
        (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {}),
        (rgb, "WEBP", {}),
        (rgb, "WEBP", {"lossless": True}),
        (rgb.convert("P"), "GIF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "BMP", {}),
        (rgb, "JPEG2000", {}),
        (rgb, "AVIF", {}),
    ]
    deep = cv2.imencode(".jp2", pixels.astype(np.uint16) * 257)[1].tobytes()  # Pillow cannot write it
    return [*(_saved(*form) for form in forms), deep]


def _rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _saved(image: Image.Image, format: str, options: dict) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """Flips bits, writes extreme values, cuts, repeats or swaps parts, mostly in the headers."""
    out = bytearray(data)
    for _ in range(int(draw.integers(1, 12))):
        reach = len(out) if draw.random() < 0.4 else min(len(out), 120)
        at = int(draw.integers(reach))
        match int(draw.integers(6)):
            case 0:
                out[at] ^= 1 << int(draw.integers(8))
            case 1:
                out[at] = int(draw.choice([0, 1, 127, 128, 255]))
            case 2:
                out[at : at + 4] = int(draw.choice([0, 1, 2**16, 2**31 - 1, 2**32 - 1])).to_bytes(4, "big")
            case 3:
                out = out[: max(1, at)]
            case 4:
                out[at:at] = out[at : at + int(draw.integers(1, 64))]
            case _:
                other = int(draw.integers(len(out)))
                out[at : at + 16], out[other : other + 16] = out[other : other + 16], out[at : at + 16]
    return bytes(out)


def decode_all() -> tuple[int, int]:
    """Decodes all damaged pictures; returns how many gave pixels and how many were rejected."""
    draw, whole = np.random.default_rng(7), whole_pictures()
    made = rejected = 0
    for number in range(PICTURES):
        try:
            pixels = decode(damaged(whole[number % len(whole)], draw), name=str(number), max_pixels=10**6)
        except Rejection as rejection:
            assert rejection.stage == "decode" and rejection.detail
            rejected += 1
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            made += 1
    return made, rejected


def test_no_damaged_picture_takes_the_process_down():
    for data in whole_pictures():
        decode(data, name="whole")
    # In a process of its own: a crash of a C library would end the tests without a word.
    ended = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    made, rejected = map(int, ended.stdout.split())
    assert made + rejected == PICTURES and made > 100 and rejected > 500


if __name__ == "__main__":
    print(*decode_all())
