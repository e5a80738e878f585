"""JPEG 2000 as libraries keep their masters: with a colour profile, with more than 8 bits, with both."""

import struct

import cv2
import numpy as np
import pytest
from skimage.data import astronaut
from test_scan import DEEP, swapped_profile

from capricious.errors import Rejection
from capricious.faces import jpeg2000
from capricious.faces.image import decode, encode
from capricious.render.scan import read_scan

PHOTO = astronaut()[:200, :300]
LOSSLESS = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]


def jp2(pixels: np.ndarray, icc: bytes | None = None) -> bytes:
    data = cv2.imencode(".jp2", pixels[..., ::-1], LOSSLESS)[1].tobytes()
    if icc is None:
        return data
    header, colours = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    length = struct.unpack_from(">I", data, header)[0]
    own = struct.unpack_from(">I", data, colours)[0]
    box = struct.pack(">I4sBBB", 11 + len(icc), b"colr", 2, 0, 0) + icc
    longer = struct.pack(">I", length + len(box) - own)
    return data[:header] + longer + data[header + 4 : colours] + box + data[colours + own :]


def twelve_bits(pixels: np.ndarray, icc: bytes | None = None) -> bytes:
    """OpenCV writes 8 or 16; but lossless coefficients are the same for any depth, less half of its range."""
    data = bytearray(jp2((pixels + (2**15 - 2**11)).astype(np.uint16), icc))
    stream = data.index(b"\xff\x4f\xff\x51")
    data[data.index(b"ihdr") + 14] = 11
    for channel in range(3):
        data[stream + 42 + 3 * channel] = 11
    return bytes(data)


def test_the_profile_is_applied_and_kept():
    scan = read_scan(jp2(PHOTO, swapped_profile()), name="master.jp2")
    assert scan.icc == swapped_profile() and np.array_equal(scan.native, PHOTO)
    assert np.array_equal(scan.srgb, decode(encode(PHOTO, "png", icc=swapped_profile()), name="same.png"))
    plain = read_scan(jp2(PHOTO), name="plain.jp2")
    assert plain.icc is None and np.array_equal(plain.srgb, PHOTO)


@pytest.mark.parametrize("icc", [None, swapped_profile()])
def test_sixteen_bits_are_kept(icc):
    pixels = DEEP[:200, :300].copy()
    pixels[:20] = 65_535  # which Pillow makes black
    scan = read_scan(jp2(pixels, icc), name="master.jp2")
    assert scan.depth == 16 and np.array_equal(scan.native, pixels)
    assert (scan.srgb[:20] == 255).all()


@pytest.mark.parametrize("cut", ["", "codestream"])
def test_twelve_bits_are_read_as_eight(cut):
    pixels = np.linspace(0, 4095, PHOTO.size).astype(np.uint16).reshape(PHOTO.shape)
    data = twelve_bits(pixels)
    data = data[data.index(b"\xff\x4f\xff\x51") :] if cut else data
    scan = read_scan(data, name="master.jp2")
    assert scan.depth == 8 and np.array_equal(scan.srgb, pixels >> 4)


def test_twelve_bits_with_a_profile_become_srgb():
    pixels = np.full(PHOTO.shape, 4095, np.uint16)
    scan = read_scan(twelve_bits(pixels, swapped_profile()), name="master.jp2")
    assert scan.native is None and scan.icc is None and (scan.srgb >= 250).all()


def test_sixteen_bits_with_transparency_are_refused():
    rgba = np.dstack([DEEP, np.full(DEEP.shape[:2], 30_000, np.uint16)])
    data = cv2.imencode(".jp2", rgba, LOSSLESS)[1].tobytes()
    with pytest.raises(Rejection, match="master.jp2: .*must be RGB or grey, found: RGBA"):
        decode(data, name="master.jp2")


@pytest.mark.parametrize(
    "box", [b"", b"\0\0\0\4jp2h", b"\0\0\0\1jp2h\0\0", b"\0\0\0\0jp2h\0\0\0\x0bcolr", b"\0\0\0\0jp2c"]
)
def test_damaged_boxes_say_nothing(box):
    assert jpeg2000.icc_profile(box) is None and jpeg2000.bits_per_channel(box) == 8


def test_boxes_may_be_longer_than_four_gigabytes():
    data = jp2(PHOTO)
    at = data.index(b"jp2c") - 4
    stream = data[at + 8 :]
    assert jpeg2000.bits_per_channel(data[:at] + struct.pack(">I4sQ", 1, b"jp2c", 16 + len(stream)) + stream) == 8
