"""From a picture to annotated faces, with the real networks on the astronaut's photo (public domain)."""

import itertools
import os

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from capricious import weights
from capricious.annotate.annotator import Annotator, AnnotatorConfig, implausible
from capricious.annotate.attributes import SUN_BRIGHTNESS, glasses_of
from capricious.annotate.detect import BlazeFace, Chain, Detection, DlibHog, anchors, suppress
from capricious.annotate.landmarks import MESH_TO_68, DlibLandmarks, FaceAlignment, FaceMesh, landmark_detector
from capricious.annotate.parsing import BiSeNetParser, Parsing
from capricious.data.records import Face
from capricious.errors import ConfigError, Rejection
from capricious.faces.attributes import Attributes
from capricious.faces.label_map import BACKGROUND, CLASSES, HAIR, SKIN

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


# Detection


def test_anchors_are_those_of_the_paper():
    centres = anchors()
    assert centres.shape == (896, 2)
    # 16×16 cells with two anchors each, then 8×8 with six, row by row.
    assert centres[0] == pytest.approx([0.5 / 16, 0.5 / 16]) and centres[2] == pytest.approx([1.5 / 16, 0.5 / 16])
    assert centres[512] == pytest.approx([0.5 / 8, 0.5 / 8]) and centres[-1] == pytest.approx([7.5 / 8, 7.5 / 8])
    assert centres.mean(0) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("detector", [BlazeFace, DlibHog])
def test_both_detectors_find_the_astronaut(detector):
    (found,) = detector().detect(ASTRONAUT)
    left, top, right, bottom = found.box
    for eye in (RIGHT_EYE, LEFT_EYE):
        assert left < eye[0] < right and top < eye[1] < bottom
    assert 80 < found.side < 130 and 0.5 < found.score <= 1.0


def test_blazeface_finds_small_faces_in_large_pictures_and_faces_that_fill_the_frame():
    detector = BlazeFace()
    large = np.full((1500, 2000, 3), 120, np.uint8)
    large[900:1412, 1300:1812] = ASTRONAUT
    (found,) = detector.detect(large)
    assert found.centre == pytest.approx(np.array([1300 + 226, 900 + 125]), abs=25)
    tight = np.ascontiguousarray(ASTRONAUT[72:182, 176:276])
    (found,) = detector.detect(tight)
    assert found.centre == pytest.approx([50, 55], abs=15)


def test_blazeface_tells_the_roll():
    turn = cv2.getRotationMatrix2D((226, 125), -30, 1.0)  # clockwise
    (found,) = BlazeFace().detect(cv2.warpAffine(ASTRONAUT, turn, (512, 512)))
    assert np.degrees(found.roll) == pytest.approx(30, abs=8)


def test_chain_asks_the_next_detector_only_where_the_first_finds_nothing():
    class Fixed:
        def __init__(self, found):
            self.found, self.asked = found, 0

        def detect(self, image):
            self.asked += 1
            return self.found

    one, two = [Detection((0, 0, 9, 9), 0.9)], [Detection((1, 1, 5, 5), 0.8)]
    first, second = Fixed(one), Fixed(two)
    assert Chain([first, second]).detect(ASTRONAUT) == one and second.asked == 0
    assert Chain([Fixed([]), second]).detect(ASTRONAUT) == two
    assert Chain([Fixed([]), Fixed([])]).detect(ASTRONAUT) == []


boxes = st.builds(
    lambda x, y, side, score: Detection((x, y, x + side, y + side), score),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(5, 60),
    st.floats(0.5, 1.0),
)


@given(st.lists(boxes, max_size=12))
@settings(deadline=None)
def test_suppression_keeps_the_best_and_every_separate_face(found):
    kept = suppress(found)
    assert len(kept) <= len(found) and bool(kept) == bool(found)
    assert [d.score for d in kept] == sorted((d.score for d in kept), reverse=True)
    if found:
        assert kept[0].score == max(d.score for d in found)
    far = [Detection((1000 * i, 0, 1000 * i + 20, 20), 0.9) for i in range(1, 4)]
    assert len(suppress([*found, *far])) == len(kept) + 3


def test_suppression_merges_one_face_and_drops_a_part_of_it():
    whole, shifted = Detection((0, 0, 100, 100), 0.9), Detection((10, 0, 110, 100), 0.6)
    part, inner = Detection((0, 0, 40, 100), 0.75), Detection((5, 5, 30, 30), 0.8)
    (kept,) = suppress([part, shifted, inner, whole])
    assert kept.score == 0.9
    assert kept.box == pytest.approx(np.average([whole.box, shifted.box], axis=0, weights=[0.9, 0.6]))


# Landmarks


def test_mesh_indices_are_mirror_images_of_each_other():
    assert MESH_TO_68.shape == (68,) and len(set(MESH_TO_68)) == 68 and MESH_TO_68.max() < 468
    (detection,) = BlazeFace().detect(ASTRONAUT)
    points = FaceMesh().detect(ASTRONAUT, detection).points
    mirrored = np.ascontiguousarray(ASTRONAUT[:, ::-1])
    left, top, right, bottom = detection.box
    other = FaceMesh().detect(
        mirrored, Detection((512 - right, top, 512 - left, bottom), detection.score, -detection.roll)
    )
    flip = [
        *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
        45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
        *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
    ]  # fmt: skip
    back = other.points[flip] * [-1, 1] + [512, 0]
    distance = np.linalg.norm(LEFT_EYE - RIGHT_EYE)
    assert np.linalg.norm(points - back, axis=1).mean() < 0.06 * distance


def test_mesh_and_dlib_agree():
    (detection,) = BlazeFace().detect(ASTRONAUT)
    mesh = FaceMesh()
    found = [backend.detect(ASTRONAUT, detection) for backend in (mesh, DlibLandmarks(mesh))]
    for landmarks in found:
        assert landmarks.points.shape == (68, 2) and landmarks.score > 0.9
        for eye, where in zip(eyes(landmarks.points), (RIGHT_EYE, LEFT_EYE), strict=True):
            assert eye == pytest.approx(where, abs=3)
    inner = np.linalg.norm(found[0].points - found[1].points, axis=1)[17:]
    assert inner.mean() < 0.08 * np.linalg.norm(LEFT_EYE - RIGHT_EYE)


@pytest.mark.parametrize("degrees", [-90, -40, 40, 180])
def test_mesh_follows_a_turned_head(degrees):
    mesh = FaceMesh()
    upright = mesh.detect(ASTRONAUT, Detection((176, 78, 274, 175), 0.9)).points
    turn = cv2.getRotationMatrix2D((226, 125), -degrees, 1.0)
    turned = cv2.warpAffine(ASTRONAUT, turn, (512, 512))
    found = mesh.detect(turned, Detection((176, 78, 274, 175), 0.9, np.radians(degrees)))
    # OpenCV's matrix is for pixel centres at integers.
    expected = (upright - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5
    assert found.score > 0.9
    assert np.linalg.norm(found.points - expected, axis=1).mean() < 0.06 * 44


def test_mesh_does_not_believe_in_a_box_without_a_face():
    assert FaceMesh().detect(ASTRONAUT, Detection((380, 380, 480, 480), 0.9)).score < 0.5
    assert FaceMesh().detect(ASTRONAUT, Detection((900, 900, 990, 990), 0.9)).score < 0.5  # outside


def test_auto_takes_face_alignment_only_where_its_weights_are(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("CAPRICIOUS_WEIGHTS", raising=False)
    if weights.lookup(FaceAlignment.WEIGHT) is None:
        assert isinstance(landmark_detector("auto"), FaceMesh)
    made = []
    monkeypatch.setattr(weights, "lookup", lambda name: tmp_path)
    monkeypatch.setattr(
        "capricious.annotate.landmarks.FaceAlignment.__init__", lambda self, device: made.append(device)
    )
    assert isinstance(landmark_detector("auto"), FaceAlignment) and made == ["cpu"]


@pytest.mark.slow  # the package compiles two functions with numba on first use
def test_face_alignment_is_wired_up(monkeypatch, tmp_path):
    """Random weights: the network's points mean nothing, but the way to them and back is real."""
    import torch
    from face_alignment.models import FAN

    file = tmp_path / weights.get(FaceAlignment.WEIGHT).upstream_file
    torch.save(FAN(4).state_dict(), file)
    monkeypatch.setitem(
        weights.REGISTRY,
        FaceAlignment.WEIGHT,
        weights.Weight(FaceAlignment.WEIGHT, "", 0, "", "", False, (f"https://nowhere.invalid/{file.name}",)),
    )
    monkeypatch.setenv("CAPRICIOUS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    found = FaceAlignment().detect(ASTRONAUT, Detection((176, 78, 274, 175), 0.9))
    assert found.points.shape == (68, 2) and np.isfinite(found.points).all() and 0 <= found.score <= 1
    assert os.path.islink(weights.torch_hub_folder() / file.name)


# Parsing and glasses


def test_bisenet_refuses_other_sizes():
    with pytest.raises(ValueError, match="512×512×3"):
        BiSeNetParser().parse(np.zeros((256, 256, 3), np.uint8))


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
    assert face.attribute_source == {
        "age": "estimated", "gender": "estimated", "glasses": "estimated", "smile": None, "emotion": None,
    }  # fmt: skip
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
        size = 512

        def parse(self, crop):
            return Parsing(np.zeros((512, 512), np.uint8), np.zeros((512, 512), bool))

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
    [{"resolution": 8}, {"detector": "haar"}, {"landmarks": "five"}, {"min_landmark_score": 1.5}, {"threads": 0}],
)
def test_bad_configs_name_the_field(change):
    with pytest.raises(ConfigError, match=f"annotator.{next(iter(change))}"):
        AnnotatorConfig(**change)
