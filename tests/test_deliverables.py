"""What leaves the house, read by others: XMP by exiv2, manifests by the IIIF model, films by FFmpeg."""

import dataclasses
import io
import json

import av
import numpy as np
import pyexiv2
import pytest
import torch
from iiif_prezi3 import Manifest
from PIL import Image
from skimage.data import astronaut
from test_composite import ASTRONAUT

from capricious.errors import ConfigError, Rejection
from capricious.faces.attributes import Attributes
from capricious.faces.image import encode
from capricious.model.bundle import Bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig
from capricious.render.deliverables import DeliverablesConfig
from capricious.render.gallery import PAGE, GalleryWriter
from capricious.render.picture import SweepResult, render_picture
from capricious.render.provenance import DIGITAL_SOURCE_TYPE
from capricious.render.renderer import Renderer
from capricious.render.scan import Scan
from capricious.render.sweep import Sweep, Variant

RANDOM = GeneratorConfig(resolution=64, width=2, hidden=4)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    torch.manual_seed(0)
    generator = Generator(RANDOM, spectral=False).eval()
    encoder = StyleEncoder(EncoderConfig(resolution=64, width=2), spectral=False).eval()
    for network in (generator, encoder):
        for parameter in network.parameters():
            parameter.data.normal_(std=0.2)
    return Renderer(Bundle(generator, encoder, {"note": "random weights"}))


@pytest.fixture(scope="module")
def result(renderer) -> SweepResult:
    return render_picture(
        Scan(astronaut()),
        [ASTRONAUT],
        renderer,
        Sweep(ages=(20.0, 70.0)),
        source_sha256="5" * 64,
        source_uri="s3://museum/1907.17.jpg",
    )


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
def test_an_independent_reader_finds_the_provenance(result, format):
    with pyexiv2.ImageData(result.file("age-70", format)) as image:
        xmp = image.read_xmp()
    assert xmp["Xmp.iptcExt.DigitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert "Altered by an algorithm" in str(xmp["Xmp.dc.description"])
    assert xmp["Xmp.xmp.CreatorTool"].startswith("capricious ")
    (record,) = [json.loads(value) for name, value in xmp.items() if name.endswith(".record")]
    assert record["source_uri"] == "s3://museum/1907.17.jpg" and record["source_sha256"] == "5" * 64
    assert record["bundle_sha256"] == result.bundle_sha256 and record["variants"] == {"age-70": {"age": 70.0}}


def test_every_deliverable_has_the_name_that_the_plan_gives_it(result):
    deliverables = DeliverablesConfig(paintings="same", animation="none", iiif="https://museum.org/sweeps/")
    made = list(deliverables.files(result, encode(astronaut(), "webp"), "portraits/1907-17-0a"))
    assert [product for product, _, _ in made] == deliverables.products(result.sweep)
    assert [name for _, name, _ in made] == ["age-20.webp", "age-70.webp", "sheet.png", "manifest.json"]
    manifest = Manifest(**json.loads(made[-1][2]))  # the IIIF community's own model validates it
    assert str(manifest.id) == "https://museum.org/sweeps/portraits/1907-17-0a/manifest.json"
    assert len(manifest.items) == 2 and (manifest.items[0].width, manifest.items[0].height) == (512, 512)
    assert "Altered by an algorithm" in made[-1][2].decode()


@pytest.mark.parametrize(
    "change",
    [{"iiif": "museum.org"}, *({"iiif": "https://museum.org", "paintings": each} for each in ("none", "tiff"))],
)
def test_manifests_that_could_not_be_found_or_shown_are_refused(change):
    with pytest.raises(ConfigError, match=r"deliverables\.iiif"):
        DeliverablesConfig(**change)


def test_paintings_that_cannot_be_written_or_shown_are_rejected_before_any_is_made(result):
    manifests = DeliverablesConfig(paintings="same", iiif="https://museum.org")
    with pytest.raises(Rejection, match=r"TIFF.*--deliverables\.paintings jpeg") as caught:
        next(manifests.files(result, encode(astronaut(), "tiff"), "portraits/1"))
    assert (caught.value.stage, caught.value.reason) == ("encode", "tiff-in-browsers")
    scroll = dataclasses.replace(result, scan=Scan(np.zeros((8, 65_536, 3), np.uint8)))
    with pytest.raises(Rejection, match=r"65,536 × 8 .*--deliverables\.paintings tiff") as caught:
        next(DeliverablesConfig().files(scroll, b"", "portraits/1"))
    assert (caught.value.stage, caught.value.reason) == ("encode", "too-large-for-jpeg")


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_films_show_every_age_and_back_and_say_what_they_are(result, format):
    data = result.animation(128, format)
    assert data == result.animation(128, format)
    with av.open(io.BytesIO(data)) as film:
        comment = {key.lower(): value for key, value in film.metadata.items()}["comment"]
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert DIGITAL_SOURCE_TYPE in comment and "5" * 64 in comment
    assert len(frames) == 2 and frames[0].shape == (128, 128, 3)
    expected = result.preview(128).painting("age-20").srgb
    assert np.abs(frames[0].astype(int) - expected).mean() < 6


def test_a_second_portraits_style_is_given_by_shares(renderer):
    other = ASTRONAUT.__class__(**{**vars(ASTRONAUT), "image": np.ascontiguousarray(255 - ASTRONAUT.image)})
    plain, half, whole = renderer.render(
        ASTRONAUT, [Variant("none"), Variant("half", style=0.5), Variant("whole", style=1.0)], other
    )
    same_mask = ASTRONAUT.__class__(**{**vars(other), "attributes": Attributes()})
    assert np.array_equal(whole, renderer.render(same_mask, [Variant("source")])[0])  # its style on this mask
    assert not np.array_equal(plain, whole) and not np.array_equal(half, plain)
    with pytest.raises(ConfigError, match="second portrait"):
        renderer.render(ASTRONAUT, [Variant("whole", style=1.0)])


def test_a_gallery_has_pages_and_no_title_can_break_it():
    files: dict[str, bytes] = {}
    gallery = GalleryWriter(files.__setitem__)
    for number in range(PAGE + 1):
        gallery.add("ok", {"folder": f"p/{number}", "title": "</script><b>", "uri": "u", "files": {"sheet": "s.png"}})
    gallery.add("failed", {"folder": "f", "title": "x", "uri": "u", "stage": "read", "reason": "r", "detail": "gone"})
    gallery.close("<Sweeps>")
    assert sorted(files) == [
        "gallery/failed-0000.js",
        "gallery/index.html",
        "gallery/ok-0000.js",
        "gallery/ok-0001.js",
    ]
    for content in files.values():
        assert b"</script><b>" not in content and b"<Sweeps>" not in content
    page = json.loads(files["gallery/ok-0000.js"].decode().removeprefix('show("ok", 0, ').removesuffix(");\n"))
    assert len(page) == PAGE and page[0]["title"] == "</script><b>"


def test_a_sheet_is_a_picture(result):
    with Image.open(io.BytesIO(result.sheet())) as sheet:
        assert sheet.format == "PNG"
