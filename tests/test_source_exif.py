"""What a museum wrote into a file's EXIF stays in the altered one if it fits, and what no longer holds does not."""

import io
import logging

import numpy as np
import pytest
from PIL import ExifTags, Image

from capricious.faces.image import encode
from capricious.render.scan import read_scan

GREY = np.full((32, 48, 3), 128, np.uint8)
EXIF, INTEROP = ExifTags.IFD.Exif, ExifTags.IFD.Interop


def source(values, first=()):
    """A picture file with values of the EXIF directory, and of the first one."""
    exif = Image.Exif()
    for tag, value in {ExifTags.Base.Copyright: "public domain", **dict(first)}.items():
        exif[tag] = value
    exif[EXIF] = {ExifTags.Base.DateTimeOriginal: "2019:05:01 10:00:00", **values}
    return encode(GREY, "png", exif=exif.tobytes())


def altered(data, format):
    with Image.open(io.BytesIO(read_scan(data, name="1907.17").encode(format))) as image:
        exif = image.getexif()
        return dict(exif), exif.get_ifd(EXIF), exif.get_ifd(INTEROP)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
def test_what_belongs_to_the_old_file_is_left_out(format):
    of_the_file = {
        ExifTags.Base.MakerNote: b"\1" * 70_000,
        INTEROP: {1: "R03"},
        ExifTags.Base.ExifImageWidth: 48,
        ExifTags.Base.ColorSpace: 65_535,
    }
    first, directory, interop = altered(source({**of_the_file, ExifTags.Base.LensModel: "HC 120"}), format)
    assert first[ExifTags.Base.Copyright] == "public domain" and interop == {}
    assert directory == {ExifTags.Base.DateTimeOriginal: "2019:05:01 10:00:00", ExifTags.Base.LensModel: "HC 120"}


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
def test_what_no_jpeg_could_hold_costs_neither_the_picture_nor_its_rights(format, caplog):
    long = {ExifTags.Base.ImageDescription: "canvas " * 8_000}
    data = source({ExifTags.Base.UserComment: b"\0" * 60_000}, long)
    with caplog.at_level(logging.WARNING):
        first, directory, _ = altered(data, format)
    assert first[ExifTags.Base.Copyright] == "public domain"
    assert first[ExifTags.Base.ImageDescription].startswith("canvas")
    assert directory == {ExifTags.Base.DateTimeOriginal: "2019:05:01 10:00:00"}
    assert [record.message for record in caplog.records] == [
        f"1907.17: EXIF tag {ExifTags.Base.UserComment:d} left out: a JPEG could not hold it with the others"
    ]
