"""Decoding what museums and strangers send: formats, colours, limits, damage."""

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import skimage.data
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from capricious.errors import Rejection
from capricious.faces.image import MATTE, decode, encode

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[100:148, 200:264])  # 48 high, 64 wide


def saved(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def rejection(data: bytes, **options: int) -> Rejection:
    with pytest.raises(Rejection) as caught:
        decode(data, name="attic/madonna.png", **options)
    assert caught.value.stage == "decode"
    assert "attic/madonna.png" in caught.value.detail
    return caught.value


def flat(value: int | tuple[int, ...], mode: str, size: int = 20) -> Image.Image:
    return Image.new(mode, (size, size), value)


LOSSLESS = {
    "png": saved(PHOTO, "PNG"),
    "bmp": saved(PHOTO, "BMP"),
    "tiff": saved(PHOTO, "TIFF"),
    "tiff-lzw": saved(PHOTO, "TIFF", compression="tiff_lzw"),
    "webp": saved(PHOTO, "WEBP", lossless=True),
    "jpeg2000": saved(PHOTO, "JPEG2000"),
}
LOSSY = {
    "jpeg": saved(PHOTO, "JPEG", quality=92),
    "progressive": saved(PHOTO, "JPEG", quality=92, progressive=True),
    "gif": saved(PHOTO, "GIF"),
    "avif": saved(PHOTO, "AVIF", quality=90),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_return_the_very_pixels(kind: str) -> None:
    decoded = decode(LOSSLESS[kind], name="wrong-extension.txt")
    assert np.array_equal(decoded, PHOTO)
    assert decoded.dtype == np.uint8 and decoded.flags.writeable and decoded.flags.c_contiguous


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_return_nearly_the_pixels(kind: str) -> None:
    difference = decode(LOSSY[kind], name="x").astype(int) - PHOTO
    assert np.abs(difference).mean() < 8


def test_multi_picture_files_give_the_first_frame() -> None:
    second = [Image.fromarray(255 - PHOTO)]
    for format in ("TIFF", "PNG", "WEBP", "MPO", "GIF"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = saved(PHOTO, format, save_all=True, append_images=second, **options)
        assert np.abs(decode(data, name="x").astype(int) - PHOTO).mean() < 12, format


# --- colours


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format: str) -> None:
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    decoded = decode(saved(ramp, format), name="x")
    assert np.abs(decoded[..., 0] - ramp / 257.0).max() <= 0.5
    assert (decoded[..., 0] == decoded[..., 2]).all()


def test_sixteen_bit_grey_with_white_as_zero_is_inverted() -> None:
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    data = bytearray(saved(ramp, "TIFF"))
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)  # PhotometricInterpretation = 1, black is zero
    assert data.count(entry) == 1
    white_is_zero = data.replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    assert np.abs(decode(bytes(white_is_zero), name="x")[..., 0] - (255 - ramp / 257.0)).max() <= 0.51


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Writes a PNG by hand: Pillow writes neither 16-bit RGB nor a header that lies."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 20 * 20 * 3).astype(">u2").reshape(20, 20 * 3)
    data = png(20, 20, 16, 2, b"".join(b"\0" + row.tobytes() for row in values))
    decoded = decode(data, name="x").reshape(20, 60)
    assert np.abs(decoded - values / 257.0).max() <= 1.0


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_channels_one_after_the_other_are_read_at_8_bits_and_refused_at_16(compression: str | None) -> None:
    def planar(pixels: np.ndarray) -> bytes:
        out = io.BytesIO()
        planes = pixels.transpose(2, 0, 1)
        tifffile.imwrite(out, planes, photometric="rgb", planarconfig="separate", compression=compression)
        return out.getvalue()

    assert np.array_equal(decode(planar(PHOTO), name="x"), PHOTO)
    reject = rejection(planar(PHOTO * np.uint16(257)))  # Pillow scrambles some of these, OpenCV all
    assert reject.reason == "unsupported-depth" and "save it interleaved" in reject.detail


@pytest.mark.parametrize("mode", ["I", "F"])
def test_samples_without_an_agreed_white_are_refused(mode: str) -> None:
    reject = rejection(saved(flat(7, mode), "TIFF"))
    assert reject.reason == "unsupported-depth" and "16 bits" in reject.detail


def test_one_bit_palette_and_grey() -> None:
    assert decode(saved(flat(1, "1"), "PNG"), name="x").min() == 255
    assert (decode(saved(flat(77, "L"), "JPEG"), name="x") == 77).all()
    palette = Image.fromarray(PHOTO).quantize(16)
    assert np.array_equal(decode(saved(palette, "PNG"), name="x"), np.asarray(palette.convert("RGB")))


def test_transparency_lies_on_neutral_grey() -> None:
    clear = decode(saved(flat((255, 0, 0, 0), "RGBA"), "PNG"), name="x")
    half = decode(saved(flat((255, 0, 0, 128), "RGBA"), "WEBP", lossless=True), name="x")
    grey = decode(saved(flat((10, 0), "LA"), "PNG"), name="x")
    keyed = decode(saved(flat((9, 9, 9), "RGB"), "PNG", transparency=(9, 9, 9)), name="x")
    palette = flat(3, "P")
    palette.putpalette([200] * 768)
    indexed = decode(saved(palette, "PNG", transparency=3), name="x")
    for picture in (clear, grey, keyed, indexed):
        assert (picture == MATTE).all()
    assert np.abs(half[0, 0].astype(int) - [192, 64, 64]).max() <= 1


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(format: str) -> None:
    """Adobe writes CMYK JPEGs inverted; whoever forgets it gets a negative."""
    cyan, paper = flat((255, 0, 0, 0), "CMYK"), flat((0, 0, 0, 0), "CMYK")
    assert np.abs(decode(saved(cyan, format), name="x")[5, 5].astype(int) - [0, 255, 255]).max() <= 3
    assert decode(saved(paper, format), name="x").min() >= 252


def test_icc_profiles_are_converted_to_srgb() -> None:
    linear = saved(flat(55, "L"), "PNG", icc_profile=gray_profile())
    # Linear 55/255 = 0.2157 is sRGB-encoded 0.502 (IEC 61966-2-1: 1.055·x^(1/2.4) − 0.055).
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)
    assert np.abs(decode(linear, name="x") - expected).max() <= 1.5

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged = decode(saved(PHOTO, "PNG", icc_profile=srgb), name="x")
    assert np.abs(tagged.astype(int) - PHOTO).max() <= 1
    grey_with_rgb_profile = saved(flat(77, "L"), "PNG", icc_profile=srgb)
    assert np.abs(decode(grey_with_rgb_profile, name="x").astype(int) - 77).max() <= 1


def gray_profile() -> bytes:
    """A minimal linear grey ICC v2 profile: header, tag table, white point, curve of gamma 1."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    table = 4 + 2 * 12
    wtpt, ktrc = 128 + table, 128 + table + len(white)
    body = struct.pack(">I", 2) + b"wtpt" + struct.pack(">II", wtpt, len(white))
    body += b"kTRC" + struct.pack(">II", ktrc, len(curve)) + white + curve
    header = struct.pack(">I4s4s4s4s4s", 128 + len(body), b"lcms", b"\x02\x10\0\0", b"mntr", b"GRAY", b"XYZ ")
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + body


def test_lab_tiff_is_converted() -> None:
    assert np.abs(decode(saved(flat((255, 128, 128), "LAB"), "TIFF"), name="x").astype(int) - 255).max() <= 2


def test_a_broken_profile_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    broken = saved(PHOTO, "PNG", icc_profile=b"not a profile" * 20)
    assert np.array_equal(decode(broken, name="attic/madonna.png"), PHOTO)
    assert "attic/madonna.png: ICC profile ignored" in caplog.text
    alien = saved(PHOTO, "PNG", icc_profile=gray_profile())  # a valid profile of the wrong colour space
    assert np.array_equal(decode(alien, name="x"), PHOTO)


# --- orientation


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    # What a camera held that way would have stored, by the definition of row 0 and column 0 (EXIF 2.32).
    stored = {
        1: PHOTO,
        2: PHOTO[:, ::-1],
        3: PHOTO[::-1, ::-1],
        4: PHOTO[::-1],
        5: PHOTO.transpose(1, 0, 2),
        6: PHOTO.transpose(1, 0, 2)[::-1],
        7: PHOTO.transpose(1, 0, 2)[::-1, ::-1],
        8: PHOTO.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    decoded = decode(saved(np.ascontiguousarray(stored), format, exif=exif, **options), name="x")
    assert decoded.shape == PHOTO.shape
    assert np.abs(decoded.astype(int) - PHOTO).mean() < (4 if format == "JPEG" else 1e-9)


def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xee" * 9  # claims 65,535 entries
    assert np.array_equal(decode(saved(PHOTO, "PNG", exif=exif), name="x"), PHOTO)


# --- limits and damage


def test_a_huge_header_is_rejected_at_once_and_without_memory() -> None:
    bomb = png(30_000, 30_000, 8, 2, b"\0" * 1000)
    tracemalloc.start()
    start = time.perf_counter()
    reject = rejection(bomb)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reject.reason == "too-many-pixels"
    assert "30,000 × 30,000" in reject.detail and "268,435,456" in reject.detail
    assert seconds < 0.1 and peak < 1_000_000


@pytest.mark.parametrize("data", [*LOSSLESS.values(), *LOSSY.values()], ids=[*LOSSLESS, *LOSSY])
def test_the_cap_holds_for_every_format(data: bytes) -> None:
    assert decode(data, name="x", max_pixels=48 * 64).shape == PHOTO.shape
    assert rejection(data, max_pixels=48 * 64 - 1).reason == "too-many-pixels"


def test_pillows_global_limit_neither_binds_nor_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("png", "tiff", "tiff-lzw", "bmp", "jpeg2000"):
        assert np.array_equal(decode(LOSSLESS[kind], name="x"), PHOTO), kind
    assert rejection(LOSSLESS["webp"]).reason == "too-many-pixels"  # the one that keeps Pillow's limit
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "empty", "0 bytes"),
        (b"Dear Sir, please find attached", "not-an-image", "PNG, JPEG"),
        (bytes(1000), "not-an-image", "PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported-format", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "unsupported-format", "SVG"),
        (b"<!DOCTYPE html><title>404</title>", "unsupported-format", "HTML"),
        (b"%PDF-1.7\n", "unsupported-format", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported-format", "PostScript"),
        (b"\0\0\0\x18ftypheic", "unsupported-format", "HEIF"),
        (b"\x89PNG\r\n\x1a\n", "corrupt", "PNG"),
        (saved(flat(1, "L", 15), "PNG"), "too-small", "at least 16"),
    ],
)
def test_other_content_is_named_with_a_remedy(data: bytes, reason: str, words: str) -> None:
    reject = rejection(data)
    assert reject.reason == reason and words in reject.detail


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff-lzw", "gif", "avif", "jpeg2000", "bmp"])
def test_half_a_file_is_rejected(kind: str) -> None:
    data = {**LOSSLESS, **LOSSY}[kind]
    assert rejection(data[: len(data) // 2]).reason in ("truncated", "corrupt")


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    data=st.sampled_from([*LOSSLESS.values(), *LOSSY.values()]),
    cut=st.floats(0.0, 1.0),
    flips=st.lists(st.tuples(st.floats(0.0, 0.999), st.integers(1, 255)), max_size=8),
    near_the_front=st.booleans(),
)
def test_damage_never_raises_anything_but_a_rejection(
    data: bytes, cut: float, flips: list[tuple[float, int]], near_the_front: bool
) -> None:
    damaged = bytearray(data[: int(len(data) * (1.0 if flips else cut))])
    for where, bits in flips:  # headers are where parsers break
        damaged[int(where * (min(len(damaged), 200) if near_the_front else len(damaged)))] ^= bits
    try:
        decoded = decode(bytes(damaged), name="x", max_pixels=1_000_000)
    except Rejection as reject:
        assert reject.stage == "decode" and reject.detail.startswith("x: ")
    else:
        assert decoded.ndim == 3 and decoded.shape[2] == 3 and decoded.dtype == np.uint8


# --- encode


def test_encode_round_trips() -> None:
    grey = PHOTO[..., 0]
    assert np.array_equal(decode(encode(PHOTO), name="x"), PHOTO)
    assert np.array_equal(decode(encode(PHOTO, "webp", lossless=True), name="x"), PHOTO)
    assert np.array_equal(decode(encode(grey), name="x")[..., 1], grey)
    for format in ("jpeg", "webp"):
        assert np.abs(decode(encode(PHOTO, format), name="x").astype(int) - PHOTO).mean() < 6
        assert len(encode(PHOTO, format, quality=20)) < len(encode(PHOTO, format, quality=95))
    assert encode(PHOTO, "webp") == encode(PHOTO[::-1][::-1], "webp")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": PHOTO.astype(np.float32)}, "uint8"),
        ({"image": np.zeros((4, 4, 4), np.uint8)}, "H×W×3"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "sides of"),
        ({"image": np.zeros((1, 20_000), np.uint8), "format": "webp"}, "16383"),
        ({"format": "bmp"}, "png, jpeg, webp or tiff"),
        ({"quality": 0}, "1…100"),
        ({"format": "jpeg", "lossless": True}, "lossless"),
    ],
)
def test_encode_says_what_it_cannot_write(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode(**{"image": PHOTO, **change})
