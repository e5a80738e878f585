"""Back into the painting: what must not change does not, what changes keeps its brushwork."""

import dataclasses

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_tools import pasted, square

from capricious.data.records import Face
from capricious.faces.align import align, bounds_of, to_crop
from capricious.faces.attributes import Attributes
from capricious.faces.label_map import EYES, HAIR, MOUTH, SKIN
from capricious.model.put_back import exaggerate
from capricious.model.put_back import put_back as put_back_in_training
from capricious.render.composite import (
    MODES,
    TOGETHER,
    CompositeConfig,
    Compositing,
    Placement,
    put_back,
    sitter_mask,
)
from capricious.render.scan import Scan
from capricious.render.sweep import Variant
from capricious.render.unalign import Unalign

R = 64
PHOTO = np.ascontiguousarray(skimage.data.astronaut())


def face_in(picture: np.ndarray, quad: np.ndarray) -> Face:
    """A face whose sitter is a disc of skin with a cap of hair."""
    y, x = np.mgrid[:R, :R] + 0.5
    disc = np.hypot(x - R / 2, y - R / 2) < 0.36 * R
    labels = np.where(disc, np.where(y < R / 3, HAIR, SKIN), 0).astype(np.uint8)
    crop = align(picture, quad, R)
    return Face(crop, labels, np.zeros((68, 2), np.float32), quad, Attributes(), {}, 1, 1, np.zeros(3), 1, 1)


ASTRONAUT = face_in(PHOTO, square(224, 116, 200, 8))


def shifted(render: np.ndarray, levels: int) -> np.ndarray:
    return np.clip(render.astype(int) + levels, 0, 255).astype(np.uint8)


def outside(face: Face, picture: np.ndarray) -> np.ndarray:
    """Which pixels have their centre outside of the quad; independent of Unalign."""
    height, width = picture.shape[:2]
    at = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2) + 0.5
    at = to_crop(at, face.quad, 1).reshape(height, width, 2)
    return ((at < 0) | (at > 1)).any(-1)


@settings(max_examples=25, deadline=None)
@given(st.floats(-50, 560), st.floats(-50, 560), st.floats(20, 500), st.floats(-180, 180), st.integers(0, 2**31))
def test_equal_renders_leave_every_byte(x: float, y: float, side: float, degrees: float, seed: int) -> None:
    face = dataclasses.replace(ASTRONAUT, quad=square(x, y, side, degrees))
    render = np.random.default_rng(seed).integers(0, 256, (R, R, 3), np.uint8)
    assert np.array_equal(pasted(PHOTO, face, render, render.copy()), PHOTO)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("quad", [square(224, 116, 200, 8), square(20, 30, 150, -40), square(224, 116, 40)])
def test_outside_of_the_quad_nothing_changes_and_the_original_never(mode: str, quad: np.ndarray) -> None:
    face = face_in(PHOTO, quad)
    before = PHOTO.copy()
    out = pasted(PHOTO, face, face.image, 255 - face.image, mode=mode)
    assert np.array_equal(PHOTO, before) and out is not PHOTO
    elsewhere = outside(face, PHOTO)
    assert np.array_equal(out[elsewhere], PHOTO[elsewhere])
    assert (out != PHOTO).any()


def test_equal_pixels_beyond_the_guide_window_stay() -> None:
    """Where only the top differs, the chin keeps its bytes."""
    target = ASTRONAUT.image.copy()
    target[: R // 4] = shifted(target[: R // 4], 40)
    out = pasted(PHOTO, ASTRONAUT, ASTRONAUT.image, target, hair_spread=0.0)
    left, top, right, bottom = bounds_of(ASTRONAUT.quad, 512, 512)
    way = Unalign(ASTRONAUT.quad, R, (left, top, right, bottom))
    rows = way(np.indices((R, R))[0, ..., None].astype(np.float32))[..., 0]
    below = (way.coverage > 0) & (rows > R / 4 + 2 * 2 + 4)  # two box filters of radius 2, and the bicubic kernel
    window = np.s_[top:bottom, left:right]
    assert np.array_equal(out[window][below], PHOTO[window][below])
    assert (out[window] != PHOTO[window]).any()


def test_a_constant_difference_is_added_in_full_inside_and_fades_to_the_border() -> None:
    picture = np.full((300, 300, 3), 100, np.uint8)
    face = face_in(picture, square(150, 150, 200))
    out = pasted(picture, face, face.image, shifted(face.image, 30))
    assert (out[130:170, 130:170] == 130).all()
    assert (out[50:55, 50:250] == 100).all()
    profile = out[150, 50:151, 0].astype(int)
    assert (np.diff(profile) >= 0).all() and np.diff(profile).max() <= 6  # no visible seam
    half = pasted(picture, face, face.image, shifted(face.image, 30), strength=0.5)
    assert (half[130:170, 130:170] == 115).all()


def test_a_crop_changes_as_its_picture_does() -> None:
    quad = square(224, 116, R)  # a crop of the picture's own pixels
    face = face_in(PHOTO, quad)
    source = np.random.default_rng(0).integers(0, 200, (R, R, 3), np.uint8)
    crops = put_back(face.image, face, source, np.stack([source, shifted(source, 30)]))
    assert np.array_equal(crops[0], face.image)
    changed = align(pasted(PHOTO, face, source, shifted(source, 30)), quad, R)
    assert np.abs(crops[1].astype(int) - changed).max() <= 1


@pytest.mark.parametrize("strength", [1.0, 1.5])
def test_training_judges_what_is_delivered(strength: float) -> None:
    labels = ASTRONAUT.label_map.copy()
    labels[26:32, 20:30], labels[42:48, 24:40], labels[8:20, 20:44] = EYES, MOUTH, HAIR
    flat = dataclasses.replace(
        ASTRONAUT, image=np.full((R, R, 3), (140, 120, 90), np.uint8), label_map=labels
    )  # no edge
    source, target = np.random.default_rng(0).integers(60, 120, (2, R, R, 3), np.uint8)
    held = CompositeConfig().settled(strength)
    delivered = put_back(flat.image, flat, source, target[None], held)[0]
    images = [torch.from_numpy(x / np.float32(127.5) - 1).permute(2, 0, 1)[None] for x in (flat.image, source, target)]
    label_map = torch.from_numpy(flat.label_map)[None]
    trained = put_back_in_training(images[0], label_map, images[2] - images[1])
    levels = (exaggerate(images[0], label_map, trained, strength)[0].permute(1, 2, 0) * 127.5 + 127.5).numpy()
    whole = sitter_mask(flat.label_map, R) > 0.999
    assert whole.sum() > 300 and np.abs(levels - delivered)[whole].max() <= 1.0
    assert np.array_equal(trained[..., :4, :4], images[0][..., :4, :4])  # background


@pytest.mark.parametrize(
    ("faded", "turned", "strength", "wanted"),
    [
        (0.5, 0.0, 1.0, 0.5),
        (0.4, 0.0, 2.0, 0.8),
        (0.8, 0.0, 1.5, 1.0),  # to grey, not on to blue
        (-0.3, 0.0, 1.0, 0.0),  # no browner than it is
        (0.0, 0.6, 1.0, 0.0),  # nor green
        (0.5, 0.6, 1.0, 0.5),
    ],
)
def test_age_fades_the_colour_of_hair_and_brings_no_other(
    faded: float, turned: float, strength: float, wanted: float
) -> None:
    brown, bt601 = np.array([120.0, 90.0, 40.0]), np.array([0.299, 0.587, 0.114])
    colour = brown - brown @ bt601
    green = np.cross(colour, bt601) / np.linalg.norm(bt601)  # as strong, at a right angle, no light
    picture = np.full((300, 300, 3), brown, np.uint8)
    face = dataclasses.replace(face_in(picture, square(150, 150, 200)), label_map=np.full((R, R), HAIR, np.uint8))
    target = np.round(face.image + 20 - faded * colour + turned * green).astype(np.uint8)
    out = pasted(picture, face, face.image, target, strength=strength).astype(float)
    assert np.allclose(out[150, 150], brown + 20 * strength - wanted * colour, atol=1.5)
    free = pasted(picture, face, face.image, target, hair_fades=False).astype(float)
    assert np.allclose(free[150, 150], brown + 20 - faded * colour + turned * green, atol=1.5)


@pytest.mark.parametrize(("period", "passing"), [(2, 0.0), (4, 0.75), (8, 0.98)])
def test_a_grid_that_the_network_leaves_is_not_put_back(period: int, passing: float) -> None:
    picture = np.full((R, R, 3), 100, np.uint8)
    face = dataclasses.replace(ASTRONAUT, image=picture, label_map=np.full((R, R), SKIN, np.uint8))
    wave = 40 * np.cos(2 * np.pi * np.arange(R) / period)
    wanted = passing * wave[20:44]
    for target in (wave[:, None, None], wave[None, :, None]):
        made = put_back(picture, face, picture, np.rint(picture + target)[None].astype(np.uint8))[0, 20:44, 20:44, 0]
        profile = made.mean(axis=1 if target.shape[0] > 1 else 0) - 100
        assert np.allclose(profile, wanted, atol=2)


def test_hair_greys_evenly_and_skin_as_the_network_says() -> None:
    picture = np.random.default_rng(0).integers(60, 140, (300, 300, 3), np.uint8)
    labels = np.full((R, R), SKIN, np.uint8)
    labels[: R // 2] = HAIR
    face = dataclasses.replace(face_in(picture, square(150, 150, 200)), label_map=labels)
    checks = np.indices((R, R)).sum(0) // 4 % 2 == 0  # clouds of four pixels, of 60 levels or none
    target = face.image + (60 * checks[..., None]).astype(np.uint8)
    hair, skin = np.s_[90:130, 90:210], np.s_[165:210, 90:210]
    even, cloudy = (pasted(picture, face, face.image, target, hair_spread=spread) for spread in (1 / 8, 0.0))
    change = even[hair].astype(int) - picture[hair]
    assert abs(change.mean() - 30) < 2 and change.std() < 3  # strands of the picture's own stay
    assert (cloudy[hair].astype(int) - picture[hair]).std() > 15
    assert np.abs(even[skin].astype(int) - cloudy[skin]).max() <= 1


def test_age_shades_the_skin_and_other_changes_colour_all() -> None:
    picture = np.full((300, 300, 3), 100, np.uint8)
    labels = np.full((R, R), SKIN, np.uint8)
    labels[:20] = HAIR  # grey hair, from which no colour can fade
    face = dataclasses.replace(face_in(picture, square(150, 150, 200)), label_map=labels)
    hair, cheek = ((50 + 200 * y // R, 50 + 200 * 32 // R) for y in (10, 40))
    older, glasses = Variant("age-70", {"age": 70.0}), Variant("glasses", {"glasses": 1.0})
    greener = face.image + np.array([0, 40, 0], np.uint8)
    shade = 0.587 * 40  # ITU-R BT.601
    all_of_it = [0, 40, 0]
    for variant, on_hair, on_skin in (
        (older, [shade] * 3, [0.6 * shade, 0.6 * shade + 0.4 * 40, 0.6 * shade]),
        (glasses, all_of_it, all_of_it),
    ):
        out = pasted(picture, face, face.image, greener, **Compositing().of(variant)._asdict()).astype(int)
        assert np.allclose(out[hair] - 100, on_hair, atol=1), variant
        assert np.allclose(out[cheek] - 100, on_skin, atol=1), variant
    grey = pasted(picture, face, face.image, shifted(face.image, 30), skin_colour=0.0)
    assert (grey[cheek] == 130).all()  # light and shade count in full


def test_gaze_and_expression_stay_where_age_alone_changes() -> None:
    picture = np.full((300, 300, 3), 100, np.uint8)
    labels = np.full((R, R), SKIN, np.uint8)
    labels[16:28, 16:28], labels[40:52, 20:44] = EYES, MOUTH
    face = dataclasses.replace(face_in(picture, square(150, 150, 200)), label_map=labels)
    eye, mouth, cheek = ((50 + 200 * y // R, 50 + 200 * x // R) for y, x in ((22, 22), (46, 32), (34, 32)))
    older, smiling = Variant("age-70", {"age": 70.0}), Variant("smile", {"age": 70.0, "smile": 1.0})
    limits = {"eyes_limit": 20.0, "mouth_limit": 40.0}
    for levels, strength in ((40, 1.0), (-80, 1.0), (40, 2.0), (2, 1.0)):
        change = levels * strength
        held = [limit * np.tanh(change / limit) for limit in limits.values()]
        for variant, wanted in ((older, [*held, change]), (smiling, [change] * 3)):
            composite = Compositing(strength=strength, **limits).of(variant)
            out = pasted(picture, face, face.image, shifted(face.image, levels), **composite._asdict())
            assert np.allclose([out[place][0] - 100.0 for place in (eye, mouth, cheek)], wanted, atol=1), variant
    blend = pasted(picture, face, face.image, shifted(face.image, 40), mode="blend", **limits)
    assert blend[eye][0] == pytest.approx(140, abs=1)


def test_brushwork_survives_the_difference_but_not_the_blend() -> None:
    rng = np.random.default_rng(0)
    texture = rng.normal(0, 12, (400, 400, 1))
    painting = np.clip(130 + texture, 0, 255).astype(np.uint8).repeat(3, -1)
    face = face_in(painting, square(200, 200, 320))
    target = shifted(face.image, 25)
    inner = np.s_[160:240, 160:240, 0]
    difference = pasted(painting, face, face.image, target)[inner].astype(float)
    blend = pasted(painting, face, face.image, target, mode="blend")[inner].astype(float)
    original = painting[inner].astype(float)
    assert difference.mean() - original.mean() == pytest.approx(25, abs=1)
    assert blend.mean() - original.mean() == pytest.approx(25, abs=3)
    assert np.corrcoef(difference.ravel(), original.ravel())[0, 1] > 0.98
    assert difference.std() == pytest.approx(original.std(), rel=0.1)
    assert blend.std() < 0.6 * original.std()


def test_the_difference_follows_the_paintings_edge() -> None:
    """Dark hair that turns white beside skin: less bleeds over the hair line than plainly enlarged."""
    painting = np.full((512, 512, 3), 170, np.uint8)
    painting[:, :260] = 60  # the edge lies within a crop pixel of 8 source pixels
    face = face_in(painting, square(256, 256, 512))
    target = face.image.astype(float)
    darkness = (170 - target) / 110  # 1 in the hair, in between where a crop pixel sees both
    target = np.rint(target + 80 * darkness).astype(np.uint8)
    out = pasted(painting, face, face.image, target).astype(float)
    exact = painting.astype(float)
    exact[:, :260] += 80
    enlarged = Unalign(face.quad, R, (0, 0, 512, 512))(target.astype(np.float32) - face.image) + painting
    near = np.s_[240:272, 240:280]
    assert np.abs(out[near] - exact[near]).mean() < 0.5 * np.abs(enlarged[near] - exact[near]).mean()


def test_two_faces_apart_may_come_in_any_order() -> None:
    one, two = face_in(PHOTO, square(120, 120, 180, 5)), face_in(PHOTO, square(380, 380, 200, -20))
    changes = [(one, shifted(one.image, 20)), (two, shifted(two.image, -30))]
    outcomes = []
    for order in (changes, changes[::-1]):
        picture = PHOTO
        for face, target in order:
            picture = pasted(picture, face, face.image, target)
        outcomes.append(picture)
    assert np.array_equal(*outcomes)


def test_the_mask_is_the_sitter_softly_and_zero_at_the_border() -> None:
    everything = sitter_mask(np.full((16, 16), SKIN, np.uint8), R)
    assert everything.shape == (R, R) and everything.dtype == np.float32
    assert everything[R // 2, R // 2] == pytest.approx(1.0)
    for border in (everything[0], everything[-1], everything[:, 0], everything[:, -1]):
        assert (border == 0).all()
    assert not sitter_mask(np.zeros((R, R), np.uint8), R).any()
    disc = sitter_mask(ASTRONAUT.label_map, R)
    steps = np.abs(np.diff(disc, axis=1))
    assert 0.05 < steps.max() < 0.35


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reconstruction": PHOTO}, "reconstruction must be uint8"),
        ({"target": ASTRONAUT.image / 255.0}, "target must be uint8"),
        ({"mode": "poisson"}, "difference, blend"),
        ({"strength": -1.0}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"feather": 0.0}, "feather"),
    ],
)
def test_wrong_input_is_named(change: dict, words: str) -> None:
    good = {"picture": PHOTO, "face": ASTRONAUT, "reconstruction": ASTRONAUT.image, "target": ASTRONAUT.image}
    with pytest.raises(ValueError, match=words):
        pasted(**{**good, **change})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("quad", [square(224, 116, 200, 8), square(500, 30, 150, -40)])
def test_variants_put_back_together_get_the_pixels_that_they_get_alone(mode: str, quad: np.ndarray) -> None:
    face = dataclasses.replace(ASTRONAUT, quad=quad)
    targets = np.random.default_rng(5).integers(0, 256, (TOGETHER + 3, R, R, 3), np.uint8)
    together = [Scan(PHOTO.copy()) for _ in targets]
    Placement(Scan(PHOTO), face, targets[0], Compositing(mode, 1.25)).paint(together, targets)
    for scan, target in zip(together, targets, strict=True):
        assert np.array_equal(scan.srgb, pasted(PHOTO, face, targets[0], target, mode=mode, strength=1.25))
    crop = align(PHOTO, quad, 96)
    crops = put_back(crop, face, targets[0], targets)
    assert np.array_equal(crops[-1], put_back(crop, face, targets[0], targets[-1:])[0])
