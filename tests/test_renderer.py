"""Rendering a sweep and putting it back. The weights are random: wiring only, nobody is shown older here."""

import copy
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from capricious.data.records import Face
from capricious.errors import ConfigError
from capricious.faces.align import align
from capricious.faces.attributes import Attributes
from capricious.faces.image import encode
from capricious.faces.label_map import EYES, HAIR, SKIN, resize_label_map
from capricious.model.bundle import Bundle, load_bundle, save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig
from capricious.model.refinement import Refinement, RefinementConfig
from capricious.render.composite import CompositeConfig
from capricious.render.exhibition import Exhibit, exhibition_page
from capricious.render.picture import render_picture
from capricious.render.provenance import DIGITAL_SOURCE_TYPE, MAX_SITTERS, Provenance, read_stamp, stamp
from capricious.render.renderer import Renderer, fit
from capricious.render.scan import Scan
from capricious.render.sheet import CELL
from capricious.render.sweep import SOURCE, Sweep, Variant

R = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=R, width=4, hidden=8))
    encoder = StyleEncoder(EncoderConfig(resolution=R, width=4))
    with torch.no_grad():
        for parameter in generator.parameters():
            # The initial weights are so small that all pictures would be the same grey.
            parameter.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("bundle") / "random"
    save_bundle(folder, generator, encoder, {"note": "random weights: wiring only"})
    return load_bundle(folder)


@pytest.fixture(scope="module")
def renderer(bundle) -> Renderer:
    return Renderer(bundle)


def face_at(quad, attributes) -> Face:
    labels = np.zeros((R, R), np.uint8)
    labels[15:55, 18:48], labels[5:15, 15:50], labels[27:31, 22:30] = SKIN, HAIR, EYES
    quad = np.array(quad, np.float32)
    return Face(
        align(astronaut(), quad, R),
        labels,
        quad.mean(0) + np.zeros((68, 2), np.float32),
        quad,
        attributes,
        attribute_source={},
        detection_score=1,
        landmark_score=1,
        pose=np.zeros(3, np.float32),
        resolution_score=4,
        inside_score=1,
    )


@pytest.fixture(scope="module")
def face() -> Face:
    return face_at([[100, -10], [100, 230], [340, 230], [340, -10]], Attributes(age=41.0))


def test_a_sweep_equals_rendering_each_variant_the_plain_way(bundle, renderer, face):
    variants = Sweep().variants()
    rendered = renderer.render(face, variants)
    assert rendered.shape == (9, R, R, 3) and rendered.dtype == np.uint8
    image = torch.from_numpy(face.image.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
    labels = torch.from_numpy(face.label_map.astype(np.int64))[None]
    for variant, got in zip(variants, rendered, strict=True):
        age = variant.changes.get("age", 41.0)
        vector = torch.from_numpy(Attributes(age=age).vector())[None]
        with torch.no_grad():
            plain = bundle.generator(labels, bundle.encoder(image)[0], vector)[0].numpy()
        expected = (plain.transpose(1, 2, 0) + 1) * 127.5
        assert np.abs(got - expected).max() <= 0.51  # half a level of rounding
    assert len({picture.tobytes() for picture in rendered}) == 9


def test_bytes_depend_neither_on_the_company_nor_on_the_order(renderer, face):
    variants = Sweep().variants()
    together = renderer.render(face, variants)
    assert np.array_equal(renderer.render(face, variants[::-1])[::-1], together)
    for count in (1, 2, 3, 5):
        assert np.array_equal(renderer.render(face, variants[-count:]), together[-count:])
    assert renderer.render(face, []).shape == (0, R, R, 3)


def test_the_widest_layers_too_are_independent_of_the_company(face):
    """As above with the channels of a real network: other kernels are chosen for wide layers."""
    torch.manual_seed(1)
    generator = Generator(GeneratorConfig(resolution=R, width=16, hidden=32), spectral=False).eval()
    encoder = StyleEncoder(EncoderConfig(resolution=R, width=16), spectral=False).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_(std=0.05)
    renderer = Renderer(Bundle(generator, encoder, {}))
    variants = Sweep().variants()
    together = renderer.render(face, variants)
    assert np.array_equal(renderer.render(face, variants[::-1])[::-1], together)
    assert np.array_equal(renderer.render(face, variants[4:5]), together[4:5])


@pytest.fixture(scope="module")
def refined(bundle, tmp_path_factory) -> Bundle:
    """The same with a refinement network, and with tones that do not all end at black and white."""
    torch.manual_seed(2)
    generator = copy.deepcopy(bundle.generator)
    generator.picture.weight.mul_(0.05)
    refinement = Refinement(RefinementConfig(R, 4))
    torch.nn.init.normal_(refinement.change.weight, std=0.05)
    folder = tmp_path_factory.mktemp("bundle") / "refined"
    save_bundle(folder, generator, bundle.encoder, refinement=refinement)
    return load_bundle(folder)


def test_a_refined_sweep_equals_the_plain_way_and_leaves_an_unchanged_sitter_alone(refined, face):
    other = replace(face, attributes=Attributes(age=23.0, gender=1.0))
    variants = Sweep().variants()
    rendered = Renderer(refined).render_all([face, other], variants)
    for who, pictures in zip((face, other), rendered, strict=True):
        image = torch.from_numpy(who.image.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
        labels = torch.from_numpy(who.label_map.astype(np.int64))[None]
        own = torch.from_numpy(who.attributes.vector())[None]
        for variant, got in zip(variants, pictures, strict=True):
            wanted = torch.from_numpy(variant.of(who.attributes).vector())[None]
            with torch.no_grad():
                code = refined.encoder(image)[0]
                renders = [refined.generator(labels, code, vector) for vector in (own, wanted)]
                plain = refined.refinement(image, labels, *renders, own, wanted)[0].numpy()
            assert np.abs(got - (plain.transpose(1, 2, 0) + 1) * 127.5).max() <= 0.51
        assert np.array_equal(pictures[0], who.image) and variants[0].name == SOURCE
        assert len({picture.tobytes() for picture in pictures}) == 9


def test_refined_bytes_depend_on_nobody_else_either(refined, face):
    variants, renderer = Sweep().variants(), Renderer(refined)
    together = renderer.render_all([face, face], variants)
    assert np.array_equal(together[0], together[1])
    assert np.array_equal(renderer.render(face, variants[::-1])[::-1], together[0])
    assert np.array_equal(renderer.render(face, variants[4:5]), together[0, 4:5])


def test_what_the_generator_makes_can_be_seen_beside_what_is_delivered(refined, face):
    variants = Sweep().variants()
    faces = [face, replace(face, attributes=Attributes(age=23.0))]
    plain = Renderer(replace(refined, refinement=None))
    alone, finished = Renderer(refined).render_both(faces, variants)
    assert np.array_equal(alone, plain.render_all(faces, variants))
    assert np.array_equal(finished, Renderer(refined).render_all(faces, variants))
    assert not np.array_equal(alone, finished)
    assert all(np.array_equal(each, alone) for each in plain.render_both(faces, variants))


def test_an_unknown_age_is_a_state_of_its_own(renderer, face):
    unknown, newborn = (
        renderer.render(replace(face, attributes=a), [Variant(SOURCE)])[0] for a in (Attributes(), Attributes(age=0.0))
    )
    assert not np.array_equal(unknown, newborn)


def test_a_face_of_another_resolution_is_fitted(renderer, face):
    large = replace(
        face,
        image=np.asarray(Image.fromarray(face.image).resize((2 * R, 2 * R), Image.Resampling.NEAREST)),
        label_map=np.kron(face.label_map, np.ones((2, 2), np.uint8)),
    )
    fitted = fit(large, R)
    assert np.array_equal(fitted.label_map, resize_label_map(large.label_map, R))
    assert np.array_equal(fitted.label_map, face.label_map)
    assert renderer.render(large, [Variant(SOURCE)]).shape == (1, R, R, 3)
    assert fit(face, R).image is face.image


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"chunk": 3}, "multiple of 4"),
        ({"chunk": 0}, "found: 0"),
        ({"threads": 0}, "threads"),
        ({"dtype": torch.float16}, "float32 or bfloat16"),
    ],
)
def test_settings_that_cannot_work_are_refused(bundle, arguments, says):
    with pytest.raises(ConfigError, match=says):
        Renderer(bundle, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_said_plainly(bundle):
    with pytest.raises(ConfigError, match="use device cpu"):
        Renderer(bundle, "cuda")


def test_bfloat16_is_close_to_the_reference(bundle, renderer, face):
    variants = Sweep(ages=(20.0, 70.0)).variants()
    low = Renderer(bundle, dtype=torch.bfloat16).render(face, variants).astype(int)
    assert np.abs(low - renderer.render(face, variants)).mean() < 3


@pytest.fixture(scope="module")
def result(renderer, face):
    second = face_at([[400, 300], [400, 400], [500, 400], [500, 300]], Attributes())
    return render_picture(Scan(astronaut()), [face, second], renderer, Sweep.parse("20,80"), source_sha256="5" * 64)


def test_every_face_goes_back_into_the_painting(result):
    painting = result.painting("age-80").srgb
    changed = (painting != astronaut()).any(2)
    assert changed[60:180, 150:290].mean() > 0.05 and changed[320:380, 420:480].mean() > 0.05
    changed[0:232, 98:342] = changed[298:402, 398:502] = False
    assert not changed.any()  # outside of the two quads not one pixel
    assert np.array_equal(result.painting(SOURCE).srgb, astronaut())
    assert np.array_equal(result.picture, astronaut())  # the original is never written to


def test_paintings_come_one_by_one_and_a_preview_is_the_same_smaller(result):
    names = [variant.name for variant, _ in result.paintings()]
    assert names == ["age-20", "age-80"]
    small = result.preview(128).painting("age-80").srgb
    reference = np.asarray(Image.fromarray(result.painting("age-80").srgb).resize((128, 128), Image.Resampling.LANCZOS))
    assert small.shape == (128, 128, 3)
    assert np.abs(small.astype(int) - reference).mean() < 6
    assert result.preview(4096) is result
    with pytest.raises(KeyError, match="age-20, age-80"):
        result.painting("age-30")


def test_the_same_request_gives_the_same_bytes(result, renderer):
    again = render_picture(Scan(astronaut()), result.faces, renderer, result.sweep, source_sha256="5" * 64)
    assert again.sheet() == result.sheet()
    assert again.animation(96) == result.animation(96)
    assert again.file("age-80") == result.file("age-80")


def test_changes_are_put_back_as_strongly_as_the_bundle_asks_unless_someone_else_does(bundle, face):
    def painted(asked, **config):
        renderer = Renderer(replace(bundle, info={**bundle.info, "strength": asked}))
        sweep, composite = Sweep.parse("80"), CompositeConfig(**config)
        result = render_picture(Scan(astronaut()), [face], renderer, sweep, source_sha256="5" * 64, composite=composite)
        return result.painting("age-80").srgb

    assert np.array_equal(painted(2.0), painted(1.0, strength=2.0))
    assert not np.array_equal(painted(2.0), painted(1.0))
    assert np.array_equal(painted(2.0, strength=0.5), painted(1.0, strength=0.5))
    assert np.array_equal(painted(2.0, mode="blend"), painted(1.0, mode="blend"))  # already all of the render


def test_a_sheet_shows_faces_as_they_are_delivered(result):
    alone = replace(result, faces=result.faces[:1], renders=result.renders[:1])
    face, painting = alone.faces[0], alone.painting("age-80").srgb
    with Image.open(io.BytesIO(alone.sheet())) as image:
        sheet = np.asarray(image)
    wanted, background = align(painting, face.quad, CELL).astype(int), align(alone.picture, face.quad, CELL)
    last = sheet[:, : -CELL // 3]  # the margin
    rows = range(sheet.shape[0] - CELL)
    off = min(np.abs(last[row : row + CELL, -CELL:].astype(int) - wanted).mean() for row in rows)
    assert 3 * off < np.abs(background - wanted).mean()


def test_every_file_says_what_it_is(result, bundle):
    files = {
        "PNG": result.file("age-80"),
        "JPEG": result.file("age-80", "jpeg"),
        "WEBP": result.crop_file(0, "age-80"),
        "GIF": result.animation(96),
    }
    for format, data in files.items():
        record = read_stamp(data)
        assert record["source_sha256"] == "5" * 64 and record["bundle_sha256"] == bundle.sha256, format
        assert record["variants"]["age-80"] == {"age": 80.0}
        assert record["sitters"][0] == {"age": 41.0}
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == format
            packet = image.info["comment" if format == "GIF" else "xmp"]
        kind = ElementTree.fromstring(packet.decode().lstrip("\ufeff")).find(".//{*}DigitalSourceType")
        assert kind is not None and kind.text == DIGITAL_SOURCE_TYPE
    assert read_stamp(files["WEBP"])["faces"] == 1 and read_stamp(files["PNG"])["faces"] == 2
    with Image.open(io.BytesIO(files["GIF"])) as animation:
        assert animation.n_frames == 2
    with Image.open(io.BytesIO(result.sheet())) as sheet:
        assert sheet.width > sheet.height


def test_a_stamp_touches_no_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    crowd = Provenance("a" * 64, "b" * 64, (Variant(SOURCE),), (Attributes(age=3.0, emotion=(0.125,) * 8),) * 2000)
    alpha = io.BytesIO()
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(alpha, "webp", lossless=True)
    files = [encode(pixels, "png"), encode(pixels, "jpeg"), encode(pixels, "webp"), alpha.getvalue()]
    for data in [*files, encode(pixels, "webp", lossless=True)]:
        stamped = stamp(data, crowd)
        with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(stamped)) as after:
            assert before.mode == after.mode
            assert np.array_equal(np.asarray(before), np.asarray(after))
        assert read_stamp(data) is None
        record = read_stamp(stamped)
        assert record["faces"] == 2000 and len(record["sitters"]) == MAX_SITTERS
    with pytest.raises(ValueError, match="BM"):
        stamp(b"BM" + bytes(20), crowd)


def test_names_cannot_break_the_packet():
    hostile = Provenance("]]></x>", "</capricious:record>&<", (Variant("<a&b>", {"glasses": '"'}),), ())
    data = stamp(encode(np.zeros((8, 8, 3), np.uint8)), hostile)
    assert read_stamp(data) == hostile.record()
    ElementTree.fromstring(hostile.packet().decode().lstrip("\ufeff"))


def test_a_gallery_needs_nothing_but_its_folder():
    exhibits = [Exhibit('<b>"Lady"</b>', "unknown & old", "museum, CC0", "a b.png", "a.gif")]
    page = exhibition_page(exhibits, title="Demo <1>")
    assert "<b>" not in page and "&lt;b&gt;" in page
    targets = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert targets == ["a.gif", "a%20b.png", "a%20b.png"]
    assert not re.search(r"https?://|@import|url\(", page)
    assert page.count("<img") == len(re.findall(r'<img[^>]* alt="[^"]+"', page)) == 2
