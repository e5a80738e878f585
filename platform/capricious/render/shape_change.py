"""The shape of a face at another age: a child's chin is higher, its jaw narrower, its mouth smaller.

The label map, and with it what the network draws, stays where the sitter's face is. So the picture itself is moved, by
as much as mean faces of the two ages differ (Tiddeman, Burt & Perrett 2001, "Prototyping and transforming facial
textures", have shape by prototypes).
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import RBFInterpolator

from capricious.data.records import Face
from capricious.faces.align import to_crop
from capricious.faces.attributes import Attributes

MEAN_SHAPES = Path(__file__).with_name("mean_shapes.json")

NODES = 32
"""The spline is evaluated at so many places along a side and one more, from edge to edge; in between it is linear."""

STILL = 8
"""So many places along each border of the crop are held."""

SMOOTHING = 20 / 128**2
"""Of the spline: a landmark need not be met exactly, and noise of a landmark tears nothing."""

SPLINES = 32
"""Of so many faces the spline is remembered, 0.6 MB each."""

FACING = 20.0, 45.0
"""Degrees of yaw up to which a face is moved in full, and from which it is not: the mean faces look ahead."""


class ShapeChange:
    """Knows how one face moves with age and gender.

    Args:
        face: its landmarks, quad, pose and attributes.
        share: of the mean faces' difference that is wanted.
    """

    def __init__(self, face: Face, share: float):
        self._own = face.attributes
        full, none = FACING
        self._share = share * float(np.clip((none - abs(face.pose[0])) / (none - full), 0, 1))
        # Rounded, so that they are the same in the picture as in its crop and its preview, and so is their spline.
        self._points = np.round(to_crop(face.landmarks, face.quad, 1), 4)

    def __call__(self, attributes: Attributes) -> np.ndarray | None:
        """Returns from where what is seen at each node comes, less the node's place, in sides of the crop.

        (NODES + 1)×(NODES + 1)×2 float32 (x, y), 0 along the crop's edge. None: nothing moves, as neither age nor
        gender changes or the sitter's own are not known.
        """
        own, wanted = self._own, attributes
        if self._share == 0 or own.age is None or own.gender is None or wanted.age is None or wanted.gender is None:
            return None
        if (own.age, own.gender) == (wanted.age, wanted.gender):
            return None
        moved = self._share * (mean_shape(wanted.age, wanted.gender) - mean_shape(own.age, own.gender))
        forth = np.zeros((NODES + 1, NODES + 1, 2), np.float32)
        forth[1:-1, 1:-1] = (_spline(self._points.tobytes()) @ moved).reshape(NODES + 1, NODES + 1, 2)[1:-1, 1:-1]
        return _inverse(forth)


def mean_shape(age: float, gender: float) -> np.ndarray:
    """Returns the mean face of an age in years and a gender (0 female … 1 male): 68×2 in a crop of side 1."""
    ages, female, male = _mean_shapes()
    at = float(np.interp(age, ages, np.arange(len(ages))))
    low = min(int(at), len(ages) - 2)
    both = (1 - gender) * female + gender * male
    return (1 - (at - low)) * both[low] + (at - low) * both[low + 1]


@cache
def _mean_shapes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = json.loads(MEAN_SHAPES.read_text())
    return np.array(found["ages"], float), np.array(found["female"]), np.array(found["male"])


@lru_cache(SPLINES)
def _spline(points: bytes) -> np.ndarray:
    """Returns the matrix (NODES + 1)²×68 that makes displacements of a grid's nodes of those of 68 points.

    Kept, as a face is put back into its picture, its crop and its preview, and by a service at many ages.
    """
    landmarks = np.frombuffer(points).reshape(-1, 2)
    along = np.linspace(0, 1, STILL + 1)
    border = np.array([(x, y) for x in along for y in along if {x, y} & {0.0, 1.0}])
    values = np.eye(len(landmarks) + len(border), len(landmarks))
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, NODES + 1)] * 2), -1).reshape(-1, 2)
    spline = RBFInterpolator(np.concatenate([landmarks, border]), values, smoothing=SMOOTHING)
    matrix: np.ndarray = spline(grid)
    return matrix


def _inverse(forth: np.ndarray) -> np.ndarray:
    """Returns the way back of nodes that were displaced by `forth`; they go less far than they lie apart."""
    y, x = np.indices(forth.shape[:2], np.float32)
    back = -forth
    for _ in range(4):
        back = -cv2.remap(forth, x + NODES * back[..., 0], y + NODES * back[..., 1], cv2.INTER_LINEAR)
    return back
