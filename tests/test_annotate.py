"""From a picture to annotated faces, with the real networks on the astronaut's photo (public domain)."""

import itertools

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from capricious.annotate.annotator import Annotator, AnnotatorConfig, only_the_sitter
from capricious.annotate.attributes import SUN_BRIGHTNESS, glasses_of
from capricious.annotate.bisenet_parser import BiSeNetParser
from capricious.annotate.finder import implausible
from capricious.annotate.parsing import Parsing
from capricious.annotate.unet_parser import UNetParser
from capricious.data.records import Face
from capricious.errors import ConfigError, Rejection
from capricious.faces.align import align, to_crop
from capricious.faces.attributes import Attributes
from capricious.faces.label_map import BACKGROUND, CLASSES, HAIR, SKIN, resize_label_map

ASTRONAUT = skimage.data.astronaut()  # 512×512; her eyes lie near (204, 101) and (248, 104)
RIGHT_EYE, LEFT_EYE = np.array([204.0, 101.0]), np.array([248.0, 104.0])


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return Annotator(AnnotatorConfig(resolution=128))


@pytest.fixture(scope="module")
def face(annotator) -> Face:
    (face,) = annotator.annotate(ASTRONAUT)
    return face


def eyes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points[36:42].mean(0), points[42:48].mean(0)


# Parsing and glasses


def test_bisenet_refuses_other_sizes():
    with pytest.raises(ValueError, match="512×512×3"):
        BiSeNetParser().parse(np.zeros((256, 256, 3), np.uint8))


def test_our_parser_agrees_with_its_teacher_on_a_face_that_neither_learnt_from(face):
    crops = [align(ASTRONAUT, face.quad, size) for size in (256, 512)]
    ours, teachers = UNetParser().parse(crops[0]).labels, resize_label_map(BiSeNetParser().parse(crops[1]).labels, 256)
    for part, least in ((BACKGROUND, 0.85), (SKIN, 0.9), (HAIR, 0.85)):
        both, either = (ours == part) & (teachers == part), (ours == part) | (teachers == part)
        assert both.sum() / either.sum() > least


def test_skin_that_hangs_together_with_no_part_of_the_face_is_background(face):
    parts = np.full((128, 128), BACKGROUND, np.uint8)
    parts[30:110, 30:100] = SKIN
    parts[20:50, 30:100] = HAIR  # a fringe,
    parts[40:46, 50:60] = SKIN  # through which some forehead shows
    neighbour = parts.copy()
    neighbour[90:120, 110:128] = SKIN
    points = to_crop(face.landmarks, face.quad, 128)
    assert np.array_equal(only_the_sitter(parts, points), parts)
    assert np.array_equal(only_the_sitter(neighbour, points), parts)


def test_glasses_need_enough_pixels_and_are_dark_when_sunglasses():
    labels = np.full((512, 512), SKIN, np.uint8)
    mask = np.zeros((512, 512), bool)
    crop = np.full((512, 512, 3), 160, np.uint8)
    mask[200:220, 100:125] = True  # 500 pixels: not more than the threshold
    assert glasses_of(crop, Parsing(labels, mask)) == "none"
    mask[200:260, 100:400] = True
    for share, expected in ((1.0, "reading"), (SUN_BRIGHTNESS + 0.05, "reading"), (SUN_BRIGHTNESS - 0.05, "sun")):
        crop[mask] = round(160 * share)
        assert glasses_of(crop, Parsing(labels, mask)) == expected
        # A dark painting of the same sitter is judged alike.
        assert glasses_of((crop * 0.4).astype(np.uint8), Parsing(labels, mask)) == expected


def test_drawn_sunglasses_are_seen(annotator, face):
    picture = ASTRONAUT.copy()
    right, left = eyes(face.landmarks)
    for eye in (right, left):
        cv2.ellipse(picture, (round(eye[0]), round(eye[1]) + 2), (15, 11), 0, 0, 360, (15, 12, 14), -1)
    middle = [tuple(int(v) for v in eye + shift) for eye, shift in ((right, (14, -4)), (left, (-14, -4)))]
    cv2.line(picture, *middle, (0, 0, 0), 3)
    (worn,) = annotator.annotate(picture)
    assert face.attributes.glasses == "none" and worn.attributes.glasses == "sun"


# The whole chain


def test_astronaut_is_annotated_whole(face):
    left, top, right, bottom = 165, 75, 285, 190
    assert (face.landmarks > [left, top]).all() and (face.landmarks < [right, bottom]).all()
    for eye, where in zip(eyes(face.landmarks), (RIGHT_EYE, LEFT_EYE), strict=True):
        assert eye == pytest.approx(where, abs=3)
    assert face.image.shape == (128, 128, 3) and face.image.dtype == np.uint8
    assert face.label_map.shape == (128, 128) and face.label_map.dtype == np.uint8
    assert set(np.unique(face.label_map)) == set(range(len(CLASSES)))
    # Hair lies above the face, the middle of the cheeks is skin, the upper corners are background.
    assert face.label_map[20, 64] == HAIR and (face.label_map[76, [44, 84]] == SKIN).all()
    assert face.label_map[0, 0] == face.label_map[0, -1] == BACKGROUND
    assert face.resolution_score == pytest.approx(np.linalg.norm(face.quad[3] - face.quad[0]) / 128, rel=1e-3)
    assert face.inside_score == 1.0 and 0.5 < face.detection_score <= 1.0


def test_attributes_are_estimated_and_labels_win(annotator, face):
    assert 20 < face.attributes.age < 45 and face.attributes.gender < 0.2 and face.attributes.glasses == "none"
    assert face.attributes.smile > 0.8 and sum(face.attributes.emotion) == pytest.approx(1.0, abs=1e-4)
    assert set(face.attribute_source.values()) == {"estimated"} and len(face.attribute_source) == 5
    silent = Annotator(AnnotatorConfig(estimator="none", expression="none", glasses=False))
    (unknown,) = silent.annotate(ASTRONAUT)
    assert unknown.attributes == Attributes() and set(unknown.attribute_source.values()) == {None}
    (labelled,) = annotator.annotate(ASTRONAUT, Attributes(age=41.0, smile=0.9))
    assert labelled.attributes == face.attributes.override(age=41.0, smile=0.9)
    assert labelled.attribute_source["age"] == labelled.attribute_source["smile"] == "label"
    assert labelled.attribute_source["gender"] == "estimated"


def test_three_faces_come_largest_first_and_only_the_largest_gets_the_labels(annotator):
    picture = np.full((900, 1600, 3), 90, np.uint8)
    placed = ((640, 940, 120), (512, 20, 40), (360, 560, 300))  # size, x, y
    for size, x, y in placed:
        picture[y : y + size, x : x + size] = cv2.resize(ASTRONAUT, (size, size), interpolation=cv2.INTER_AREA)
    found = annotator.annotate(picture, Attributes(age=36.0))
    assert len(found) == 3
    for face, (size, x, y) in zip(found, placed, strict=True):
        expected = RIGHT_EYE * size / 512 + [x, y]
        assert eyes(face.landmarks)[0] == pytest.approx(expected, abs=5)
    assert [face.attribute_source["age"] for face in found] == ["label", "estimated", "estimated"]
    for a, b in itertools.pairwise(found):
        assert a.resolution_score > b.resolution_score

    only = Annotator(AnnotatorConfig(max_faces=1)).annotate(picture)
    assert len(only) == 1 and np.array_equal(only[0].image, found[0].image)


@pytest.mark.parametrize("scene", ["coffee", "rocket", "chelsea"])
def test_pictures_without_people_are_rejected(annotator, scene):
    with pytest.raises(Rejection) as caught:
        annotator.annotate(np.ascontiguousarray(getattr(skimage.data, scene)()))
    assert (caught.value.stage, caught.value.reason) == ("detect", "no-face")


def test_tiny_faces_are_rejected_with_the_setting_to_change(annotator):
    small = cv2.resize(ASTRONAUT, (128, 128), interpolation=cv2.INTER_AREA)
    with pytest.raises(Rejection, match=r"annotator\.min_face_pixels") as caught:
        annotator.annotate(small)
    assert (caught.value.stage, caught.value.reason) == ("detect", "face-too-small")


def test_face_that_the_parser_cannot_read_is_rejected(monkeypatch):
    annotator = Annotator()

    class Blind:
        size = 256

        def parse(self, crop):
            return Parsing(np.zeros((256, 256), np.uint8), np.zeros((256, 256), bool))

    monkeypatch.setattr(annotator, "_parser", Blind())
    with pytest.raises(Rejection, match="skin on 0%") as caught:
        annotator.annotate(ASTRONAUT)
    assert (caught.value.stage, caught.value.reason) == ("parse", "no-skin")


@settings(max_examples=50, deadline=None)
@given(st.floats(-180, 180), st.floats(0.2, 5))
def test_plausibility_does_not_depend_on_size_or_rotation(degrees, scale):
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (SKETCH - SKETCH.mean(0)) @ turn.T + 1000
    assert implausible(moved, 2000, 2000) is None
    assert "order" in implausible(moved * [-1, 1] + [2000, 0], 2000, 2000)  # left and right exchanged


# A face drawn with 68 points: jaw, brows, nose, eyes, lips.
SKETCH = np.array(
    [(180 + 5.5 * i, 110 + 60 * np.sin(np.pi * i / 16)) for i in range(17)]
    + [(190 + 6 * i, 92) for i in range(5)] + [(236 + 6 * i, 92) for i in range(5)]
    + [(226, 100 + 8 * i) for i in range(4)] + [(216 + 5 * i, 130) for i in range(5)]
    + [(204 + 8 * np.cos(a), 101 - 4 * np.sin(a)) for a in np.linspace(np.pi, -np.pi, 6, endpoint=False)]
    + [(248 + 8 * np.cos(a), 101 - 4 * np.sin(a)) for a in np.linspace(np.pi, -np.pi, 6, endpoint=False)]
    + [(226 + 16 * np.cos(a), 148 - 6 * np.sin(a)) for a in np.linspace(np.pi, -np.pi, 20, endpoint=False)]
)  # fmt: skip


def test_implausible_landmarks_say_what_is_wrong():
    assert implausible(SKETCH, 512, 512) is None
    assert "inside" in implausible(SKETCH - 200, 512, 512)
    assert "not a number" in implausible(np.where(SKETCH > 240, np.nan, SKETCH), 512, 512)
    pinched = SKETCH.copy()
    pinched[42:48] = pinched[36:42] + 1
    assert "eyes" in implausible(pinched, 512, 512)


@pytest.mark.parametrize(
    "change",
    [{"resolution": 8}, {"detector": "haar"}, {"landmarks": "five"}, {"min_confidence": 1.5}, {"threads": 0}],
)
def test_bad_configs_name_the_field(change):
    with pytest.raises(ConfigError, match=f"annotator.{next(iter(change))}"):
        AnnotatorConfig(**change)
