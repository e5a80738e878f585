"""Face detection on the astronaut's photo (public domain), pasted, turned and shrunk."""

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from capricious.annotate.detect import (
    DETECTORS,
    AnyWayUp,
    BlazeFace,
    Chain,
    Detection,
    DlibHog,
    anchors,
    face_detector,
    reduce,
    suppress,
)

ASTRONAUT = skimage.data.astronaut()  # 512×512; her eyes lie near (204, 101) and (248, 104)
RIGHT_EYE, LEFT_EYE = np.array([204.0, 101.0]), np.array([248.0, 104.0])
FACE = np.array([226.0, 125.0])


@pytest.fixture(scope="module")
def blazeface() -> BlazeFace:
    return BlazeFace()


def paste(canvas: np.ndarray, size: int, x: int, y: int) -> np.ndarray:
    """Puts the photo at a size and place; returns where her face is."""
    canvas[y : y + size, x : x + size] = cv2.resize(ASTRONAUT, (size, size), interpolation=cv2.INTER_AREA)
    return FACE * size / 512 + [x, y]


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


def test_faces_that_fill_the_frame_are_found(blazeface):
    (found,) = blazeface.detect(np.ascontiguousarray(ASTRONAUT[72:182, 176:276]))
    assert found.centre == pytest.approx([50, 55], abs=15)


def test_small_faces_are_found_in_a_huge_painting(blazeface):
    canvas = np.full((4000, 6000, 3), 120, np.uint8)
    where = paste(canvas, 1400, 3900, 2100)  # the face has a twentieth of the width
    (found,) = blazeface.detect(canvas)
    assert found.centre == pytest.approx(where, abs=60)


def test_every_face_of_a_group_is_found_once(blazeface):
    group = np.full((1400, 2000, 3), 90, np.uint8)
    placed = [(700, 0, 0), (500, 720, 60), (420, 1240, 30), (330, 1665, 200), (600, 60, 760), (460, 700, 800)]
    placed += [(380, 1200, 700), (300, 1600, 900)]
    centres = [paste(group, *place) for place in placed]
    found = blazeface.detect(group)
    assert len(found) == len(centres)
    for (size, _, _), centre in zip(placed, centres, strict=True):
        assert min(np.linalg.norm(face.centre - centre) for face in found) < 0.05 * size


@pytest.mark.parametrize("degrees", [-30, 30])
def test_blazeface_tells_the_roll(blazeface, degrees):
    turn = cv2.getRotationMatrix2D((226, 125), -degrees, 1.0)
    (found,) = blazeface.detect(cv2.warpAffine(ASTRONAUT, turn, (512, 512)))
    assert np.degrees(found.roll) == pytest.approx(degrees, abs=8)


@pytest.mark.parametrize(("quarters", "degrees"), [(0, 0), (1, -90), (2, 180), (3, 90)])
def test_faces_are_found_whichever_way_up(blazeface, quarters, degrees):
    wide = np.full((512, 700, 3), 90, np.uint8)
    wide[:, 100:612] = ASTRONAUT
    right, left = {
        0: ((304, 101), (348, 104)),
        1: ((101, 396), (104, 352)),
        2: ((396, 411), (352, 408)),
        3: ((411, 304), (408, 348)),
    }[quarters]
    found = AnyWayUp(blazeface).detect(np.ascontiguousarray(np.rot90(wide, quarters)))[0]
    box_left, top, box_right, bottom = found.box
    assert all(box_left < x < box_right and top < y < bottom for x, y in (right, left))
    turn = np.degrees(found.roll) - degrees
    assert (turn + 180) % 360 - 180 == pytest.approx(3.9, abs=20)  # BlazeFace knows large rolls roughly


def test_pictures_are_turned_only_where_there_is_doubt():
    sure, unsure = Fixed(Detection((0, 0, 9, 9), 0.85)), Fixed(Detection((0, 0, 9, 9), 0.6))
    assert AnyWayUp(sure).detect(ASTRONAUT) == sure.found and sure.asked == 1
    assert AnyWayUp(unsure).detect(ASTRONAUT) == unsure.found and unsure.asked == 4  # no way up is better


def test_flat_ground_costs_no_looks(monkeypatch):
    detector, looks = BlazeFace(finest=8), []
    monkeypatch.setattr(detector, "_look", lambda *rest: looks.append(rest) or [])
    canvas = np.full((3000, 4000, 3), 70, np.uint8)
    paste(canvas, 200, 1000, 1000)
    detector.detect(canvas)
    assert 2 <= len(looks) <= 20  # of about 200


class Fixed:
    def __init__(self, *found: Detection):
        self.found, self.asked = list(found), 0

    def detect(self, image):
        self.asked += 1
        return self.found


def test_chain_asks_the_next_detector_only_where_the_first_finds_nothing():
    one, two = Detection((0, 0, 9, 9), 0.9), Detection((1, 1, 5, 5), 0.8)
    first, second = Fixed(one), Fixed(two)
    assert Chain([first, second]).detect(ASTRONAUT) == [one] and second.asked == 0
    assert Chain([Fixed(), second]).detect(ASTRONAUT) == [two]
    assert Chain([Fixed(), Fixed()]).detect(ASTRONAUT) == []


def test_chain_goes_on_for_those_who_do_not_believe_it():
    one, two = Detection((0, 0, 9, 9), 0.9), Detection((1, 1, 5, 5), 0.8)
    first, second, third = Fixed(one), Fixed(), Fixed(two)
    attempts = Chain([first, second, third]).attempts(ASTRONAUT)
    assert next(attempts) == [one] and second.asked == third.asked == 0
    assert list(attempts) == [[two]]


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_by_name_find_the_astronaut_and_nobody_in_a_rocket(name):
    detector = face_detector(name)
    assert detector.detect(ASTRONAUT)[0].centre == pytest.approx(FACE, abs=25)
    if name != "auto":  # whose last resorts are for callers that look at landmarks
        assert detector.detect(np.ascontiguousarray(skimage.data.rocket())) == []


def test_unknown_detectors_are_named_with_the_known():
    with pytest.raises(ValueError, match="auto, blazeface, dlib, found: 'haar'"):
        face_detector("haar")


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 2), (40, 50)])
def test_odd_pictures_have_no_faces_and_no_errors(blazeface, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for detector in (blazeface, BlazeFace(finest=8, smallest=100), AnyWayUp(blazeface)):
        assert detector.detect(noise) == []


def test_reduce_averages_blocks():
    image = np.random.default_rng(0).integers(0, 256, (10, 13, 3), dtype=np.uint8)
    expected = image[:9, :12].reshape(3, 3, 4, 3, 3).mean((1, 3))
    assert reduce(image, 3) == pytest.approx(expected, abs=0.51)
    assert reduce(image, 1) is image


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
