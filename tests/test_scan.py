"""What a keeper's file is, is kept: depth, colours, description; and where nothing changes, every value."""

import io
import struct
import zlib
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from placement_tools import pasted, square
from skimage.data import astronaut
from test_composite import face_in, shifted

from capricious.errors import Rejection
from capricious.faces.attributes import Attributes
from capricious.faces.image import decode, encode
from capricious.faces.tiff import with_tags
from capricious.render.composite import MODES
from capricious.render.provenance import Provenance, read_stamp, stamp
from capricious.render.scan import Scan, read_scan
from capricious.render.sweep import Variant

PHOTO = astronaut()
DEEP = (PHOTO.astype(np.uint16) * 256 + np.random.default_rng(0).integers(0, 256, PHOTO.shape)).astype(np.uint16)
PROVENANCE = Provenance("5" * 64, "b" * 64, (Variant("age-80", {"age": 80.0}),), (Attributes(age=41.0),))


@cache  # it holds the second it was made in
def swapped_profile() -> bytes:
    """A profile in which red is green: whoever loses it, or applies it twice, is found out."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(srgb[at : at + 4]): at for at in range(132, 132 + 12 * srgb[131], 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    srgb[red + 4 : red + 12], srgb[green + 4 : green + 12] = srgb[green + 4 : green + 12], srgb[red + 4 : red + 12]
    return bytes(srgb)


def description() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Sofonisba Anguissola"
    exif[ExifTags.Base.Copyright] = "public domain"
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.DateTimeOriginal: "2019:05:01 10:00:00"}
    return exif.tobytes()


def described(data: bytes) -> tuple[str, str]:
    with Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        return exif[ExifTags.Base.Artist], exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal]


def test_sixteen_bits_come_back_as_they_were_but_where_the_face_changed():
    scan = read_scan(encode(DEEP, "tiff", exif=description()), name="deep.tif")
    assert scan.depth == 16 and np.array_equal(scan.native, DEEP)
    face = face_in(scan.srgb, square(224, 116, 200, 8))
    out = pasted(scan, face, face.image, shifted(face.image, 20))
    data = stamp(out.encode("tiff"), PROVENANCE)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]  # another reader
    assert pixels.dtype == np.uint16
    moved = pixels.astype(int) - DEEP
    assert (moved[300:] == 0).all() and np.array_equal(scan.native, DEEP)
    middle = np.s_[110:120, 220:230]
    assert np.abs(moved[middle] / 257 - 20).max() < 0.51
    assert described(data) == ("Sofonisba Anguissola", "2019:05:01 10:00:00")
    assert read_stamp(data)["source_sha256"] == "5" * 64
    assert np.abs(decode(data, name="out").astype(int) - out.srgb).max() <= 1


@pytest.mark.parametrize("icc", [None, swapped_profile()])
def test_sixteen_bits_that_two_readers_see_differently_are_refused(icc, monkeypatch):
    data = encode(DEEP, "tiff", icc=icc)
    assert np.array_equal(read_scan(data, name="deep.tif").native, DEEP)
    scrambled = np.ascontiguousarray(DEEP.transpose(2, 0, 1)).reshape(DEEP.shape)
    monkeypatch.setattr("capricious.render.scan.decode_16_bit", lambda data: scrambled)
    with pytest.raises(Rejection, match="deep.tif: its 16 bits per channel cannot be read"):
        read_scan(data, name="deep.tif")


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
def test_profile_and_description_are_kept(format):
    data = encode(PHOTO, "png", icc=swapped_profile(), exif=description())
    scan = read_scan(data, name="swapped.png")
    assert np.array_equal(scan.native, PHOTO)
    assert np.abs(scan.srgb[..., 0].astype(int) - PHOTO[..., 1]).mean() < 2  # the profile was applied
    face = face_in(scan.srgb, square(224, 116, 200))
    redder = shifted(face.image, 0)
    redder[..., 0] = shifted(redder[..., 0], 40)
    out = pasted(scan, face, face.image, redder, skin_colour=1.0)
    inside = np.s_[80:150, 190:260]
    step = out.native[inside].astype(int) - PHOTO[inside]
    assert step[..., 1].mean() > 10 and np.abs(step[..., [0, 2]]).mean() < 3  # what is red in sRGB is green here
    assert np.array_equal(out.native[300:], PHOTO[300:])
    written = stamp(out.encode(format), PROVENANCE)
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["icc_profile"] == swapped_profile()
    assert described(written)[0] == "Sofonisba Anguissola"
    again = read_scan(written, name="again")
    assert np.abs(again.srgb.astype(int) - out.srgb).mean() < 3
    assert read_stamp(written)["variants"] == {"age-80": {"age": 80.0}}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_scans_are_upright_at_both_depths(orientation, deep):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = DEEP[:40, :60] if deep else PHOTO[:40, :60]
    icc = None if deep else ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    scan = read_scan(encode(pixels, "tiff", icc=icc, exif=exif.tobytes()), name="turned.tif")
    native = scan.native / 257 if deep else scan.native
    assert native.shape == scan.srgb.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
    assert np.abs(native - scan.srgb).max() <= 1.01
    assert Image.Exif.get(_exif(scan.exif), ExifTags.Base.Orientation, 1) == 1


def orientation_3(place: str) -> bytes:
    """A file of DEEP upside down, as one of the places says where an orientation may be written."""
    stored = np.ascontiguousarray(DEEP[::-1, ::-1])
    statement = (
        b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></r:RDF>'
    )
    if place == "XMP of a TIFF":
        return with_tags(encode(stored, "tiff"), {700: statement})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    text = f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n".encode()
    kind, body = {
        "eXIf": (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")),
        "raw profile": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),  # as ImageMagick writes it
        "XMP": (b"iTXt", b"XML:com.adobe.xmp" + b"\0" * 5 + statement),
    }[place]
    png = cv2.imencode(".png", stored[..., ::-1])[1].tobytes()
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + chunk + png[33:]  # behind IHDR


@pytest.mark.parametrize("place", ["eXIf", "raw profile", "XMP", "XMP of a TIFF"])
def test_sixteen_bits_are_upright_wherever_the_orientation_is_written(place):
    assert np.array_equal(read_scan(orientation_3(place), name="turned").native, DEEP)


def _exif(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block)
    return exif


def test_what_is_not_rgb_becomes_srgb():
    out = io.BytesIO()
    Image.fromarray(PHOTO).convert("CMYK").save(out, "tiff")
    scan = read_scan(out.getvalue(), name="print.tif")
    assert scan.native is None and scan.depth == 8 and scan.srgb.shape == PHOTO.shape


@pytest.mark.parametrize("mode", MODES)
def test_tiles_meet_without_a_seam(mode, monkeypatch):
    """A face over many tiles equals the face in one."""
    large = cv2.resize(PHOTO, (1500, 1500), interpolation=cv2.INTER_CUBIC)
    face = face_in(large, square(650, 400, 700, 12))
    whole = pasted(Scan(large), face, face.image, shifted(face.image[:, ::-1], 25), mode=mode).srgb
    monkeypatch.setattr("capricious.render.composite.TILE", 128)
    tiled = pasted(Scan(large), face, face.image, shifted(face.image[:, ::-1], 25), mode=mode).srgb
    assert (whole != large).any()
    assert np.abs(whole.astype(int) - tiled).max() <= 1  # a sum taken in another order may round the other way
    assert (whole != tiled).mean() < 1e-3
