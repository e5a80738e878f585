"""Moves the pixels of a face in its picture, by what render/shape_change.py says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample

from capricious.faces.align import bounds_of, to_crop
from capricious.render.scan import Scan
from capricious.render.unalign import Window

FADE = 3
"""Where a picture ends within a crop, the way of its pixels fades from so many times its length: no two rows meet."""


def move(scan: Scan, quad: np.ndarray, shift: np.ndarray, tiles: Sequence[Window]) -> None:
    """Takes each pixel of a face from where `shift` says, in place; none from outside of the picture.

    Args:
        scan: the picture.
        quad: of the face's crop.
        shift: as ShapeChange returns it, in sides of the crop.
        tiles: the parts of the picture under the crop.
    """
    height, width = scan.srgb.shape[:2]
    right, down = (quad[[3, 1]] - quad[0]).astype(np.float32)
    shift = shift[..., :1] * right + shift[..., 1:] * down
    fades = [_fade(quad[:, axis], shift[..., axis], size) for axis, size in ((0, width), (1, height))]
    left, top, end, bottom = bounds_of(quad, width, height)
    before = scan.part(slice(top, bottom), slice(left, end))
    for tile in tiles:
        rows, columns = slice(tile[1], tile[3]), slice(tile[0], tile[2])
        places = _between(shift, quad, tile)
        places[..., 0] *= fades[0][columns]
        places[..., 1] *= fades[1][rows, None]
        places[..., 0] += np.arange(tile[0] - left, tile[2] - left)
        places[..., 1] += np.arange(tile[1] - top, tile[3] - top)[:, None]
        scan.move(rows, columns, places, before)


def _between(nodes: np.ndarray, quad: np.ndarray, tile: Window) -> np.ndarray:
    """Returns what lies between a crop's nodes, N×N×2, at the pixels of a tile: h×w×2 float32, 0 beyond the crop.

    OpenCV's warps round each place to 1/32 of a node. On a face of 3400 pixels that is 3 pixels, and the canvas is torn
    into steps.
    """
    left, top, right, bottom = tile
    x, y = (left + right) / 2, (top + bottom) / 2
    centre, across, along = 2 * to_crop(np.array([(x, y), (right, y), (x, bottom)]), quad, 1) - 1
    way = torch.from_numpy(np.stack([across - centre, along - centre, centre], 1)).float()
    planes = torch.from_numpy(nodes).permute(2, 0, 1)
    at = affine_grid(way[None], [1, 2, bottom - top, right - left], align_corners=False)
    return grid_sample(planes[None], at, align_corners=True)[0].permute(1, 2, 0).numpy()


def _fade(corners: np.ndarray, shift: np.ndarray, size: int) -> np.ndarray:
    """Returns along one axis of the picture how much of a shift counts, 0…1: 0 at an end that lies within the crop."""
    at = np.arange(size, dtype=np.float32) + 0.5
    distance = np.full(size, np.inf, np.float32)
    if corners.min() < 0:
        distance = at
    if corners.max() > size:
        distance = np.minimum(distance, size - at)
    share = np.clip(distance / max(FADE * float(np.abs(shift).max()), 1e-6), 0, 1)
    return share * share * (3 - 2 * share)  # smoothstep
