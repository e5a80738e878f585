"""Head pose against projections of the model under known rotations."""

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from capricious.annotate.detect import BlazeFace
from capricious.annotate.landmarks import FaceMesh
from capricious.annotate.pose import MODEL, POINTS, angles, pose_of, rotation

# fmt: off
FLIP = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
]
# fmt: on
degrees = st.tuples(st.floats(-89, 89), st.floats(-80, 80), st.floats(-179, 179))


def project(yaw: float, pitch: float, roll: float, scale: float = 50.0, shift: tuple = (300.0, 200.0)) -> np.ndarray:
    """68 landmarks of the model turned by degrees and seen from afar; those that the fit leaves out are far off."""
    points = np.full((68, 2), 1e6)
    turn = rotation(*np.radians([yaw, pitch, roll]))
    points[POINTS] = scale * (MODEL @ turn.T)[:, :2] + shift
    return points


@settings(max_examples=200, deadline=None)
@given(degrees, st.floats(0.5, 1000), st.floats(-1e3, 1e3))
def test_known_angles_come_back_at_any_size_and_place(turned, scale, shift):
    found = pose_of(project(*turned, scale, (shift, -2 * shift)))
    assert found.shape == (3,) and found.dtype == np.float32
    assert found == pytest.approx(turned, abs=1e-3)


@given(degrees)
def test_rotation_is_that_of_scipy(turned):
    # Our yaw turns about the axis that points up, scipy's about y, which points down here.
    expected = Rotation.from_euler("yxz", [-turned[0], -turned[1], turned[2]], degrees=True).as_matrix()
    turn = rotation(*np.radians(turned))
    assert turn == pytest.approx(expected, abs=1e-12)
    assert np.degrees(angles(turn)) == pytest.approx(turned, abs=1e-6)


def test_signs_are_those_of_the_picture():
    def nose(*turned):  # its tip, from the middle of the eyes
        points = project(*turned)
        return points[30] - points[36:48].mean(0)

    assert nose(30, 0, 0)[0] > 10  # to the picture's right
    assert nose(0, 30, 0)[1] < nose(0, 0, 0)[1] - 10  # up
    eyes = project(0, 0, 30)[[36, 45]]
    assert eyes[1, 1] > eyes[0, 1]  # clockwise: the eye on the picture's right sinks


@settings(deadline=None)
@given(degrees, st.integers(0, 2**32 - 1))
def test_mirroring_changes_the_signs_of_yaw_and_roll(turned, seed):
    points = project(*turned)
    points += np.random.default_rng(seed).normal(0, 1.0, points.shape)
    yaw, pitch, roll = pose_of(points)
    mirrored = pose_of(points[FLIP] * [-1, 1] + [640, 0])
    assert mirrored == pytest.approx([-yaw, pitch, -roll], abs=1e-2)


@settings(deadline=None)
@given(degrees, st.floats(-180, 180), st.integers(0, 2**32 - 1))
def test_turning_the_picture_turns_the_roll_alone(turned, angle, seed):
    points = project(*turned)
    points += np.random.default_rng(seed).normal(0, 1.0, points.shape)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    before, after = pose_of(points), pose_of(points @ np.array([[cos, sin], [-sin, cos]]))
    assert after[:2] == pytest.approx(before[:2], abs=1e-2)
    assert (after[2] - before[2] - angle + 180) % 360 - 180 == pytest.approx(0, abs=2e-2)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1e6))
def test_any_finite_points_have_a_pose(seed, spread):
    points = np.random.default_rng(seed).normal(0, spread, (68, 2))
    found = pose_of(points)
    assert np.isfinite(found).all() and (np.abs(found) <= [180, 90, 180]).all()


def test_astronaut_looks_into_the_camera():
    picture = skimage.data.astronaut()
    (detection,) = BlazeFace().detect(picture)
    yaw, pitch, roll = pose_of(FaceMesh().detect(picture, detection).points)
    assert abs(yaw) < 6 and abs(pitch) < 6
    assert roll == pytest.approx(np.degrees(np.arctan2(104 - 101, 248 - 204)), abs=2)  # her eyes, read off by eye
