"""A rendered crop blended into its picture over a Laplacian pyramid (Burt & Adelson 1983)."""

from __future__ import annotations

import cv2
import numpy as np

from capricious.faces.align import bounds_of
from capricious.render.unalign import Unalign, Window

BORDER = 1 / 12
"""Width of the strip along the crop's edge in which the mask fades to 0, as a share of its side."""

LEVELS = 5
"""Most levels of the pyramid: its coarsest pixel is 32 source pixels wide."""


def blend(picture: np.ndarray, quad: np.ndarray, layers: np.ndarray, tile: Window) -> np.ndarray:
    """Returns the change of one tile when a target is blended in: coarse frequencies over a wide seam, fine ones over
    a narrow one.

    Every tile is computed with a margin wider than the pyramid reaches, and is cut on multiples of
    its coarsest pixel, so that tiles meet without a seam.

    Args:
        picture: H×W×3 uint8.
        quad: of the face.
        layers: R×R×4 float32: the target in 0…255, and the mask in 0…1.
        tile: the part of the picture that is wanted.

    Returns:
        h×w×3 float32, to be added to the picture.
    """
    height, width = picture.shape[:2]
    whole = bounds_of(quad, width, height)
    # The coarsest level still has the seam's width; coarser ones would carry it past the quad.
    side = min(whole[2] - whole[0], whole[3] - whole[1])
    levels = int(np.clip(np.log2(max(2.0, side * BORDER / 2)), 1, LEVELS))
    margin, coarsest = 8 << levels, 1 << levels
    left, top = (max(0, start - margin) // coarsest * coarsest for start in tile[:2])
    right, bottom = (min(end, stop + margin) for end, stop in zip((width, height), tile[2:], strict=True))
    way = Unalign(quad, len(layers), (left, top, right, bottom))
    patch, coverage = way(layers), way.coverage
    below = picture[top:bottom, left:right].astype(np.float32)
    # Beyond the quad the target is unknown; the picture continues it, so that no dark edge leaks in.
    above = below + coverage[..., None] * (patch[..., :3] - below)
    weight = np.clip(patch[..., 3] * coverage, 0, 1)
    blended = _pyramid(below, above, weight, levels)
    # The pyramid spreads the seam; the second factor keeps it within the quad.
    change = np.clip(4 * weight, 0, 1)[..., None] * (blended - below)
    return change[tile[1] - top : tile[3] - top, tile[0] - left : tile[2] - left]


def _pyramid(below: np.ndarray, above: np.ndarray, weight: np.ndarray, levels: int) -> np.ndarray:
    """Laplacian-pyramid blend of two h×w×3 float32 pictures; weight h×w is 1 where `above` shows."""
    if levels == 0 or min(weight.shape) < 4:
        return below + weight[..., None] * (above - below)
    size = weight.shape[::-1]
    small_below, small_above = cv2.pyrDown(below), cv2.pyrDown(above)
    detail_below = below - cv2.pyrUp(small_below, dstsize=size)
    detail_above = above - cv2.pyrUp(small_above, dstsize=size)
    detail = detail_below + weight[..., None] * (detail_above - detail_below)
    coarse = _pyramid(small_below, small_above, cv2.pyrDown(weight), levels - 1)
    return cv2.pyrUp(coarse, dstsize=size) + detail
