"""How the pixels of a face are moved in its picture: smoothly, and none from outside of it."""

import numpy as np
import pytest
from placement_tools import square

from capricious.faces.align import bounds_of
from capricious.render.movement import move
from capricious.render.scan import Scan
from capricious.render.shape_change import NODES

STEP = 40
"""Levels of 65,535 from one pixel of a ramp to the next."""


def a_shift(x: float, y: float) -> np.ndarray:
    """A shift of nodes, most in the middle of the crop: x and y in sides of the crop."""
    bump = np.sin(np.linspace(0, np.pi, NODES + 1))
    return (np.outer(bump, bump)[..., None] * [x, y]).astype(np.float32)


def moved_ramp(height: int, width: int, axis: int, quad: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Moves a picture whose values say in which row (axis 0) or column (1) they were; returns where each comes from."""
    at = np.broadcast_to(np.indices((height, width), np.float32)[axis][..., None], (height, width, 3))
    scan = Scan(np.zeros((height, width, 3), np.uint8), (STEP * at).astype(np.uint16))
    move(scan, quad, shift, [bounds_of(quad, width, height)])
    assert scan.native is not None
    return scan.native[..., 0] / STEP


def test_a_large_face_moves_smoothly():
    side = 1200
    shift = a_shift(0.04, 0.0)
    came_from = moved_ramp(side, side, 1, square(side / 2, side / 2, side), shift)[side // 2]
    at = np.arange(side) + 0.5
    wanted = at - 0.5 + side * np.interp(at / side * NODES, np.arange(NODES + 1), shift[NODES // 2, :, 0])
    assert np.abs(came_from - wanted).max() < 0.08  # bicubic by 32nds of a pixel is no closer on a ramp


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("direction", [-1, 1])
def test_nothing_comes_from_beyond_the_picture(axis: int, direction: int):
    """The crop is half outside: its middle, where it moves most, lies on the picture's border."""
    height, width = (300, 600) if axis == 0 else (600, 300)
    end = 300 if direction > 0 else 0
    quad = square(300, end, 400) if axis == 0 else square(end, 300, 400)
    shift = a_shift(*(0.06 * direction * np.eye(2)[1 - axis]))
    came_from = moved_ramp(height, width, axis, quad, shift)
    line = came_from[:, 300] if axis == 0 else came_from[300]
    border = line[-20:] if direction > 0 else line[:20]
    assert np.abs(np.diff(border)).min() > 0.2  # no row is there twice
    assert np.diff(line).min() > 0 and abs(line[-1] - 299) < 0.1 and abs(line[0]) < 0.1
    assert np.abs(line - np.arange(300)).max() > 10  # some way off it moves


def test_a_border_near_a_crop_holds_nothing():
    shift = a_shift(0.03, 0.03)
    near, far = (moved_ramp(side, side, 0, square(200, 200, 400), shift) for side in (400, 600))
    assert np.abs(near[:398, :398] - far[:398, :398]).max() < 0.05
