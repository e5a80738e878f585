"""A profile's colours are those of Pillow's colour management, and between its 8-bit steps there are more."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_scan import swapped_profile

from capricious.render.native_colours import NativeColours, native_colours
from capricious.render.scan import Scan

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_gamma(gamma: float) -> bytes:
    """sRGB's colours with another curve."""
    icc = bytearray(SRGB)
    tags = {bytes(icc[at : at + 4]): at for at in range(132, 132 + 12 * icc[131], 12)}
    start = struct.unpack_from(">I", icc, tags[b"rTRC"] + 4)[0]  # all three share it
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
