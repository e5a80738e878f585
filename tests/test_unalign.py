"""The way from a crop back onto its picture: the inverse of align(), exact where it can be."""

import numpy as np
import pytest
from hypothesis import given, settings
from placement_tools import quads, square

from capricious.faces.align import align, bounds_of, side_of, to_crop
from capricious.render import unalign
from capricious.render.unalign import Unalign


def keys(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel (1981, eq. 4), a = −1/2, as it is written there."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


@pytest.mark.parametrize(
    "quad", [square(200, 150, 100), square(200, 150, 205, 20), square(191.2, 150, 90, 190), square(10, 290, 100, 45)]
)
def test_it_inverts_align_on_a_smooth_picture(quad: np.ndarray) -> None:
    x, y = np.meshgrid(np.arange(400) + 0.5, np.arange(300) + 0.5)
    picture = 128 + 50 * np.sin(x / 30)[..., None] + 50 * np.cos(y / 25)[..., None] * [1, 0.5, -1]
    picture = np.rint(picture).astype(np.uint8)
    left, top, right, bottom = bounds_of(quad, 400, 300)
    way = Unalign(quad, 128, (left, top, right, bottom))
    inside = way.coverage == 1
    error = (way(align(picture, quad, 128)) - picture[top:bottom, left:right])[inside]
    assert np.abs(error).max() <= 3 and abs(error.mean()) < 0.05


def test_it_is_bicubic_interpolation() -> None:
    layers = np.random.default_rng(0).normal(size=(16, 16, 3)).astype(np.float32)
    quad, window = square(40, 30, 50, 30), (30, 15, 52, 47)
    found = Unalign(quad, 16, window)(layers)
    for y in range(window[1], window[3]):
        for x in range(window[0], window[2]):
            u, v = to_crop(np.array([[x + 0.5, y + 0.5]]), quad, 16)[0] - 0.5
            weights = keys(np.arange(16) - v)[:, None] * keys(np.arange(16) - u)
            if min(u, v) > 2 and max(u, v) < 13:
                assert np.allclose(found[y - window[1], x - window[0]], np.tensordot(weights, layers), atol=1e-5)


def test_a_copy_is_placed_on_the_pixel_grid() -> None:
    noise = np.random.default_rng(0).normal(size=(32, 32, 2)).astype(np.float32)
    way = Unalign(square(66, 46, 32), 32, (50, 30, 82, 62))
    assert np.array_equal(way(noise), noise)
    assert way.coverage[0, 0] == 0.5 and (way.coverage[1:-1, 1:-1] == 1).all()


def test_a_ramp_stays_a_ramp() -> None:
    """Pillow's and OpenCV's bicubic warps make a staircase of it: slopes between 0.5 and 2 of what they should be."""
    rows, columns = np.indices((24, 24), np.float32)
    ramp = Unalign(square(150, 150, 240, 8), 24, (60, 60, 240, 240))((3 * columns + 2 * rows)[..., None])[..., 0]
    for axis in (0, 1):
        steps = np.diff(ramp, axis=axis)
        assert np.ptp(steps) < 1e-3 < abs(steps.mean())


def test_it_is_linear_and_keeps_signs() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 24, 24, 1)).astype(np.float32)
    way = Unalign(square(60, 50, 70, 25), 24, (0, 0, 120, 100))
    warped = way(a - 2 * b)
    assert warped.min() < 0 < warped.max()
    assert np.allclose(warped, way(a) - 2 * way(b), atol=1e-4)


def test_strips_give_the_bits_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = np.random.default_rng(0).normal(size=(24, 24, 4)).astype(np.float32)
    quad, window = square(60, 50, 70, 25), (0, 0, 120, 100)
    whole = Unalign(quad, 24, window)(layers)
    monkeypatch.setattr(unalign, "STRIP", 700)
    assert np.array_equal(Unalign(quad, 24, window)(layers), whole)


@settings(max_examples=60, deadline=None)
@given(quads)
def test_the_coverage_is_the_quad(quad: np.ndarray) -> None:
    window = bounds_of(quad, 200, 150)
    way = Unalign(quad, 8, window)
    found = np.zeros((150, 200))
    found[window[1] : window[3], window[0] : window[2]] = way.coverage
    assert way(np.ones((8, 8, 1), np.float32)).shape == (*way.coverage.shape, 1)
    grid = np.stack(np.meshgrid(np.arange(200), np.arange(150)), -1) + 0.5
    at = to_crop(grid.reshape(-1, 2), quad, 1).reshape(150, 200, 2)
    depth = np.minimum(at, 1 - at).min(-1) * side_of(quad)  # in source pixels
    assert np.allclose(found, np.clip(depth, 0, 1), atol=2e-3)


def test_an_enlarged_face_is_reduced_without_aliasing() -> None:
    board = np.indices((256, 256)).sum(0)[..., None] % 2 * np.float32(200)
    way = Unalign(square(50, 50, 40), 256, (0, 0, 100, 100))
    assert np.abs(way(board)[way.coverage == 1] - 100).max() < 20


def test_wrong_shapes_are_programming_errors() -> None:
    for shape in ((8, 9, 1), (8, 8), (9, 9, 1)):
        with pytest.raises(ValueError, match="8×8×C"):
            Unalign(square(25, 25, 20), 8, (0, 0, 50, 50))(np.zeros(shape, np.float32))
