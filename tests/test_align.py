"""The crop of a face: FFHQ's rule, sampling without bias or aliasing, padding."""

import time

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from placement_tools import quads, square

from capricious.errors import Rejection
from capricious.faces.align import align, inside_share, quad_of, side_of, to_crop, to_source


def face_landmarks(eye_distance: float = 100.0, eye_to_mouth: float = 110.0) -> np.ndarray:
    """68 points of an upright face whose eyes' middle is at the origin; only eyes and mouth matter."""
    points = np.zeros((68, 2))
    ring = np.array([[-1, 0], [-0.5, -1], [0.5, -1], [1, 0], [0.5, 1], [-0.5, 1]]) * 5
    eye = np.array([eye_distance / 2, 0])
    points[36:42], points[42:48] = ring - eye, ring + eye
    points[48], points[54] = [-30, eye_to_mouth], [30, eye_to_mouth]
    return points


# --- quad_of


@pytest.mark.parametrize(("eyes", "mouth"), [(100.0, 110.0), (100.0, 130.0), (60.0, 110.0)])
def test_an_upright_face_has_an_upright_square(eyes: float, mouth: float) -> None:
    half = max(2.0 * eyes, 1.8 * mouth)
    top = 0.1 * mouth - half
    expected = [[-half, top], [-half, top + 2 * half], [half, top + 2 * half], [half, top]]
    assert np.allclose(quad_of(face_landmarks(eyes, mouth)), expected, atol=1e-4)


def test_a_mouth_aside_tilts_the_crop_half_way() -> None:
    """Equal eye and mouth vectors: the crop's x axis bisects the eye line and the mouth's normal."""
    points = face_landmarks(100.0, 100.0)
    tilt = np.deg2rad(20)
    for corner in (48, 54):
        points[corner] += 100 * np.array([-np.sin(tilt), np.cos(tilt)]) - [0, 100]
    top_left, _, _, top_right = quad_of(points)
    along = top_right - top_left
    assert np.rad2deg(np.arctan2(along[1], along[0])) == pytest.approx(10, abs=1e-3)


@given(st.floats(-180, 180), st.floats(0.1, 20), st.floats(-500, 500), st.floats(-500, 500))
def test_the_quad_turns_grows_and_moves_with_the_face(degrees: float, scale: float, x: float, y: float) -> None:
    turn = np.deg2rad(degrees)
    rotation = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = face_landmarks() + np.random.default_rng(0).normal(0, 4, (68, 2))
    moved = quad_of(points @ rotation + [x, y])
    assert np.allclose(moved, quad_of(points) @ rotation + [x, y], atol=1e-2)


@pytest.mark.parametrize("points", [np.zeros((68, 2)), np.full((68, 2), 300.0), face_landmarks(50, -50)])
def test_landmarks_without_a_face_are_rejected(points: np.ndarray) -> None:
    with pytest.raises(Rejection) as caught:
        quad_of(points)
    assert (caught.value.stage, caught.value.reason) == ("landmarks", "degenerate")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_landmarks_that_are_no_numbers_are_rejected(value: float) -> None:
    points = face_landmarks()
    points[3] = value
    with pytest.raises(Rejection, match="not-finite"):
        quad_of(points)
    with pytest.raises(Rejection, match="degenerate"):
        align(np.zeros((50, 50, 3), np.uint8), np.full((4, 2), value, np.float32), 16)


def test_wrong_shapes_are_programming_errors() -> None:
    with pytest.raises(ValueError, match="68×2"):
        quad_of(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="H×W×3 uint8"):
        align(np.zeros((50, 50)), square(25, 25, 20), 16)


# --- coordinates


@given(quads, st.integers(1, 1024), st.floats(-2000, 2000), st.floats(-2000, 2000))
def test_to_crop_and_to_source_are_inverse(quad: np.ndarray, size: int, x: float, y: float) -> None:
    points = np.array([[x, y]])
    assert np.allclose(to_source(to_crop(points, quad, size), quad, size), points, atol=1e-6)


def test_corners_of_the_crop_are_corners_of_the_quad() -> None:
    quad = square(100, 80, 120, 33)
    corners = np.array([[0, 0], [0, 64], [64, 64], [64, 0]])
    assert np.allclose(to_source(corners, quad, 64), quad, atol=1e-4)
    assert side_of(quad) == pytest.approx(120, abs=1e-4)


@pytest.mark.parametrize(
    ("quad", "share"),
    [
        (square(50, 50, 100), 1.0),
        (square(0, 50, 50), 0.5),
        (square(0, 0, 80), 0.25),
        (square(50, 50, 200), 0.25),
        (square(100, 50, 40, 45), 0.5),
        (square(0, 0, 60, 45), 0.25),
        (square(-100, 50, 50), 0.0),
        (square(-25, 50, 50), 0.0),
        # A diamond of half-diagonal d = 20√2 whose centre is d/2 inside: it loses a triangle of height d/2.
        (square(10 * 2**0.5, 50, 40, 45), 1 - (10 * 2**0.5) ** 2 / 1600),
    ],
)
def test_inside_share_is_exact(quad: np.ndarray, share: float) -> None:
    assert inside_share(quad, 100, 100) == pytest.approx(share, abs=1e-6)


@settings(max_examples=40)
@given(quads)
def test_inside_share_agrees_with_counting(quad: np.ndarray) -> None:
    grid = (np.stack(np.meshgrid(np.arange(200), np.arange(200)), -1).reshape(-1, 2) + 0.5) / 200
    points = to_source(grid, quad, 1)
    inside = ((points > 0) & (points < [200, 150])).all(1).mean()
    assert inside_share(quad, 200, 150) == pytest.approx(inside, abs=0.01)


# --- align


def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth picture as a function of continuous coordinates."""
    red = 127 + 60 * np.sin(x / 40) * np.cos(y / 50)
    return np.stack([red, 10 + x * 0.6, 230 - y * 0.7], axis=-1)


def waves_picture() -> np.ndarray:
    x, y = np.meshgrid(np.arange(400) + 0.5, np.arange(300) + 0.5)
    return np.rint(waves(x, y)).astype(np.uint8)


@pytest.mark.parametrize("size", [64, 128, 200])
@pytest.mark.parametrize(
    "quad", [square(200, 150, 60), square(190.3, 160.8, 120, 17), square(200, 150, 205, -60), square(80, 90, 100, 9)]
)
def test_the_crop_samples_pixel_centres_without_bias(quad: np.ndarray, size: int) -> None:
    centres = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2) + 0.5
    expected = waves(*to_source(centres, quad, size).T).reshape(size, size, 3)
    error = align(waves_picture(), quad, size) - expected
    assert np.abs(error).max() < 2.0  # half a level each of the picture's and the crop's rounding, and overshoot
    # Half a source pixel would be 0.3 levels; OpenCV's reduction of bytes rounds ties up, up to 0.125.
    assert np.abs(error.mean((0, 1))).max() < 0.15


def test_cutting_on_the_pixel_grid_copies() -> None:
    photo = np.ascontiguousarray(skimage.data.astronaut())
    assert np.array_equal(align(photo, square(264, 164, 128), 128), photo[100:228, 200:328])


@pytest.mark.parametrize("ratio", [2.0, 3.7, 9.3])
def test_fine_stripes_become_grey_not_moire(ratio: float) -> None:
    stripes = np.zeros((1400, 1400, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = align(stripes, square(700, 700, 100 * ratio, 7), 100)
    assert np.abs(crop[4:-4, 4:-4] - 127.5).max() < 12


def test_a_reduced_crop_agrees_with_an_independent_reduction() -> None:
    photo = np.ascontiguousarray(skimage.data.astronaut())
    crop = align(photo, square(256, 256, 400), 80)
    box = Image.fromarray(photo).resize((80, 80), Image.Resampling.LANCZOS, box=(56, 56, 456, 456))
    assert np.abs(crop.astype(int) - np.asarray(box)).mean() < 3


def test_a_small_face_in_a_huge_painting_is_cheap() -> None:
    painting = np.zeros((8_000, 12_500, 3), np.uint8)  # 100 megapixels, untouched zero pages
    start = time.perf_counter()
    align(painting, square(6_000, 4_000, 300, 10), 128)
    assert time.perf_counter() - start < 0.25


def test_padding_mirrors_then_fades_and_leaves_the_picture_alone() -> None:
    photo = np.ascontiguousarray(skimage.data.astronaut())
    quad = square(0, 256, 256)  # its left half lies outside
    crop = align(photo, quad, 256)
    assert np.array_equal(crop[:, 128:], photo[128:384, :128])
    mirrored = photo[128:384, :128][:, ::-1].astype(float)
    difference = np.abs(crop[:, :128] - mirrored).mean((0, 2))
    assert difference[120:].mean() < 6 < difference[:30].mean()  # near the border a mirror, further out not
    detail = np.abs(np.diff(crop[:, :128].astype(float), axis=0)).mean((0, 2))
    assert detail[:50].max() < 0.3 * detail[110:].mean()


@settings(max_examples=60, deadline=None)
@given(quads, st.integers(1, 40), st.integers(1, 40))
def test_any_quad_gives_a_crop_or_a_rejection(quad: np.ndarray, width: int, height: int) -> None:
    picture = np.full((height, width, 3), 90, np.uint8)
    if inside_share(quad, width, height) == 0.0:
        with pytest.raises(Rejection, match="outside-picture"):
            align(picture, quad, 16)
    else:
        assert (align(picture, quad, 16) == 90).all()
