"""A profile's colours are those of Pillow's colour management, and between its 8-bit steps there are more."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_scan import swapped_profile

from capricious.faces.image import encode
from capricious.render.native_colours import NativeColours, native_colours
from capricious.render.scan import Scan, read_scan

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ENTRIES = [struct.unpack_from(">4sII", SRGB, at) for at in range(132, 132 + 12 * SRGB[131], 12)]


def with_gamma(gamma: float) -> bytes:
    """sRGB's colours with another curve."""
    icc = bytearray(SRGB)
    start = next(start for tag, start, _ in ENTRIES if tag == b"rTRC")  # all three share it
    struct.pack_into(">4s4xHHi", icc, start, b"para", 0, 0, round(gamma * 65536))
    return bytes(icc)


@pytest.mark.parametrize("icc", [with_gamma(1.8), with_gamma(2.2), with_gamma(1.0), swapped_profile()])
def test_they_are_those_of_the_profile(icc):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    wanted = ImageCms.profileToProfile(Image.fromarray(pixels), ImageCms.createProfile("sRGB"), profile)
    assert np.abs(np.asarray(wanted).astype(int) - NativeColours(icc)(pixels.astype(np.float32))).max() < 1.5


def test_srgb_has_no_way_to_go():
    assert native_colours(SRGB) is None and native_colours(with_gamma(1.8)) is not None
    grey = np.repeat(np.linspace(0, 255, 1000, dtype=np.float32)[None, :, None], 3, axis=2)
    assert np.abs(NativeColours(SRGB)(grey) - grey).max() < 0.5


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_a_faint_change_makes_no_contours_in_a_smooth_sky(gamma):
    sky = np.repeat(np.linspace(20_000, 24_000, 1024)[None, :, None], 3, axis=2).astype(np.uint16)
    scan = Scan((sky >> 8).astype(np.uint8), sky, with_gamma(gamma)).copy()
    change = np.repeat(np.linspace(0, 4, 1024, dtype=np.float32)[None, :, None], 3, axis=2)
    scan.add(slice(None), slice(None), change)
    step = (scan.native.astype(int) - sky)[0]
    level = 65535 / 255
    assert step[0].max() == 0 and level < step[-1].min() < 8 * level
    assert np.abs(np.diff(step, axis=0)).max() < level / 5


def of_a_scanner() -> bytes:
    """A profile with a table from RGB to Lab, and none back."""
    tags = {
        bytes(SRGB[at : at + 4]): struct.unpack_from(">II", SRGB, at + 4) for at in range(132, 132 + 12 * SRGB[131], 12)
    }
    kept = {
        tag: SRGB[start : start + size] for tag, (start, size) in tags.items() if tag in (b"desc", b"cprt", b"wtpt")
    }
    curves = bytes(range(256)) * 3
    lightness = np.stack(np.meshgrid(*[[0, 255]] * 3, indexing="ij"), -1).mean(-1)
    lab = np.stack([lightness, np.full((2, 2, 2), 128), np.full((2, 2, 2), 128)], -1).astype(np.uint8).tobytes()
    unity = struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    kept[b"A2B0"] = b"mft1" + bytes([0, 0, 0, 0, 3, 3, 2, 0]) + unity + curves + lab + curves
    table, body = struct.pack(">I", len(kept)), b""
    for tag, value in kept.items():
        table += struct.pack(">4sII", tag, 132 + 12 * len(kept) + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    head = SRGB[4:12] + b"scnr" + SRGB[16:20] + b"Lab " + SRGB[24:128]
    return struct.pack(">I", 4 + len(head + table + body)) + head + table + body


def test_a_profile_that_leads_one_way_only_is_applied_and_left(caplog):
    pixels = np.full((32, 32, 3), (200, 40, 90), np.uint8)
    scan = read_scan(encode(pixels, "tiff", icc=of_a_scanner()), name="raw.tif")
    assert scan.icc is None and scan.native is None and np.ptp(scan.srgb, axis=2).max() <= 1
    assert "raw.tif: its profile leads out of its colours" in caplog.text
