import dataclasses

import numpy as np
import pytest
import skimage.data
from placement_tools import square

from capricious.data.records import Face
from capricious.faces.align import align, to_crop, to_source
from capricious.faces.attributes import Attributes
from capricious.faces.label_map import SKIN
from capricious.render.composite import Compositing, Placement, put_back
from capricious.render.scan import Scan
from capricious.render.shape_change import NODES, ShapeChange, mean_shape

R = 128
CHIN, JAWS, MOUTH = 8, (2, 14), (48, 54)
GROWN, CHILD = Attributes(age=40.0, gender=1.0), Attributes(age=8.0, gender=1.0)


def a_face(quad: np.ndarray, image: np.ndarray, yaw: float = 0.0, attributes: Attributes = GROWN) -> Face:
    """A face with the mean landmarks of a man of forty in a quad of a picture."""
    return Face(
        image=image,
        label_map=np.full((R, R), SKIN, np.uint8),
        landmarks=to_source(mean_shape(40, 1), quad, 1).astype(np.float32),
        quad=quad,
        attributes=attributes,
        attribute_source={},
        detection_score=1.0,
        landmark_score=1.0,
        pose=np.array([yaw, 0, 0], np.float32),
        resolution_score=1.0,
        inside_score=1.0,
    )


CROP = square(R / 2, R / 2, R)


def test_children_have_higher_chins_narrower_jaws_and_smaller_mouths():
    for gender in (0.0, 1.0):
        child, grown = mean_shape(8, gender), mean_shape(40, gender)
        assert child[CHIN, 1] < grown[CHIN, 1] - 0.02
        for left, right in (JAWS, MOUTH):
            assert child[right, 0] - child[left, 0] < grown[right, 0] - grown[left, 0] - 0.01


def test_a_mean_face_lies_between_its_neighbours_and_is_symmetric():
    halfway = mean_shape(42, 0.5)
    assert np.allclose(halfway, (mean_shape(40, 0) + mean_shape(44, 0) + mean_shape(40, 1) + mean_shape(44, 1)) / 4)
    assert np.allclose(halfway[JAWS[0], 0], 1 - halfway[JAWS[1], 0], atol=1e-4)
    assert np.array_equal(mean_shape(120, 1), mean_shape(88, 1))  # nobody is known to be older


@pytest.mark.parametrize(
    ("face", "wanted"),
    [
        (a_face(CROP, np.zeros((R, R, 3), np.uint8)), GROWN),
        (a_face(CROP, np.zeros((R, R, 3), np.uint8)), GROWN.override(glasses="sun")),
        (a_face(CROP, np.zeros((R, R, 3), np.uint8), yaw=-50), CHILD),
        (a_face(CROP, np.zeros((R, R, 3), np.uint8), attributes=Attributes(gender=1.0)), CHILD),
    ],
    ids=["as he is", "glasses", "in profile", "of unknown age"],
)
def test_nothing_moves(face: Face, wanted: Attributes):
    assert ShapeChange(face, 1.0)(wanted) is None


def test_what_was_at_a_landmark_is_where_the_mean_faces_say():
    rows, columns = np.indices((R, R))
    ramps = np.stack([columns, rows, np.zeros((R, R))], -1).astype(np.uint8)  # each pixel says where it was
    face = a_face(CROP, ramps)
    moved = put_back(ramps, face, ramps, [ramps], Compositing(), [CHILD])[0]
    for landmark in (CHIN, 5, 33, *MOUTH):
        before, after = mean_shape(40, 1)[landmark] * R, mean_shape(8, 1)[landmark] * R
        x, y = np.floor(after).astype(int)
        here = after - 0.5 - [x, y] + moved[y, x, :2]
        assert np.abs(here - (before - 0.5)).max() < 1.0, landmark
    assert np.abs(moved[[0, -1]].astype(int) - ramps[[0, -1]]).max() <= 1
    still = put_back(ramps, face, ramps, [ramps], Compositing(shape=0.0), [CHILD])[0]
    assert np.array_equal(still, ramps)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_painting_is_moved_as_its_crop_is_and_elsewhere_keeps_its_values(depth: int):
    picture = skimage.data.astronaut()
    native = None if depth == 8 else picture.astype(np.uint16) * 257
    quad = square(230, 130, 180, 20)
    face = a_face(quad, align(picture, quad, R))
    out = Scan(picture, native).copy()
    Placement(Scan(picture, native), face, face.image, Compositing()).paint([out], [face.image], [CHILD])
    changed = (out.srgb != picture).any(2)
    y, x = np.nonzero(changed)
    inside = to_crop(np.stack([x + 0.5, y + 0.5], 1), quad, 1)
    assert changed.sum() > 2000 and (inside > -0.02).all() and (inside < 1.02).all()
    crop = put_back(face.image, face, face.image, [face.image], Compositing(), [CHILD])[0]
    assert np.abs(align(out.srgb, quad, R).astype(int) - crop).mean() < 2.0
    if native is not None:
        assert np.abs(out.native.astype(int) / 257 - out.srgb).max() <= 1.0


def test_half_the_share_moves_half_as_far():
    face = a_face(CROP, np.zeros((R, R, 3), np.uint8))
    x, y = (mean_shape(8, 1)[CHIN] * NODES).round().astype(int)
    whole, half = (ShapeChange(face, share)(CHILD)[y, x, 1] for share in (1.0, 0.5))
    assert 2 < whole * R < 6 and whole / 2 == pytest.approx(half, rel=0.25)
    turned = dataclasses.replace(face, pose=np.array([32.5, 0, 0], np.float32))
    assert ShapeChange(turned, 1.0)(CHILD)[y, x, 1] == pytest.approx(half, rel=0.01)
