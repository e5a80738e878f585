"""Puts a re-rendered face back into its picture at the picture's own resolution (docs/architecture.md).

A painting has ten times the resolution of the network. What the network knows is the *change* from
one attribute to another; what only the painting knows is its brushwork, craquelure and canvas. So
paste_back() adds the difference of two renders to the painting instead of replacing pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from capricious.data.records import Face
from capricious.faces.align import unalign
from capricious.faces.label_map import BACKGROUND, resize_label_map

MODES = ("difference", "blend")

FEATHER = 1 / 40
"""Default softness of the mask's edge: standard deviation as a share of the crop's side."""

BORDER = 1 / 12
"""Width of the strip along the crop's edge in which the mask fades to 0, as a share of its side."""

GUIDE_RADIUS = 2
"""Radius in crop pixels of the guided filter's window: an edge is sharpened from this near."""

GUIDE_EPSILON = (0.05 * 255) ** 2
"""Luminance variance below which a window counts as texture, which is kept, and not as an edge."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def paste_back(
    picture: np.ndarray,
    face: Face,
    source: np.ndarray,
    target: np.ndarray,
    *,
    mode: str = "difference",
    strength: float = 1.0,
    feather: float = FEATHER,
) -> np.ndarray:
    """Returns the picture with one face changed from `source` to `target`.

    Call it face after face for a picture with several sitters.

    Args:
        picture: H×W×3 uint8, the picture that `face` was found in. It is not modified.
        face: its quad says where, its label map what belongs to the sitter, its image is the guide.
        source: R×R×3 uint8, the render at the sitter's own attributes.
        target: R×R×3 uint8, the render at the wanted attributes.
        mode: "difference" adds target − source, so that what both renders get wrong cancels out and the
            painting's texture stays: where the two are equal the picture keeps its very bytes.
            "blend" puts the target itself there, blended over a Laplacian pyramid (Burt & Adelson 1983):
            smoother where a render departs far from the picture, at the network's resolution.
        strength: 0 (the picture) … 1 (the target); beyond 1 exaggerates.
        feather: softness of the mask's edge, as a share of the crop's side.

    Returns:
        H×W×3 uint8; pixels outside of the face's quad are the picture's own.

    Raises:
        ValueError: a shape, the mode, the strength or the feather is wrong; the message says which.
        Rejection: stage "landmarks", reason "degenerate": the quad has no area.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"picture must be H×W×3 uint8, found: {picture.shape} {picture.dtype}")
    shape = face.image.shape
    for name, render in (("source", source), ("target", target)):
        if render.shape != shape or render.dtype != np.uint8:
            raise ValueError(f"{name} must be uint8 of the face's {shape}, found: {render.shape} {render.dtype}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, found: {mode!r}")
    if not (np.isfinite(strength) and strength >= 0) or not 0 < feather <= 0.5:
        raise ValueError(f"strength must be ≥ 0 and feather in 0…0.5, found: {strength} and {feather}")
    mask = sitter_mask(face.label_map, shape[0], feather)
    out = picture.copy()
    if mode == "difference":
        _add_difference(out, face, source, target, mask * np.float32(strength))
    else:
        _blend(out, face, target, mask, strength)
    return out


def sitter_mask(label_map: np.ndarray, size: int, feather: float = FEATHER) -> np.ndarray:
    """Returns the size×size float32 mask, 0…1, of everything but background, soft and 0 at the border."""
    inside = (resize_label_map(label_map, size) != BACKGROUND).astype(np.float32)
    soft = cv2.GaussianBlur(inside, (0, 0), feather * size, borderType=cv2.BORDER_REPLICATE)
    edge = (np.minimum(np.arange(size), np.arange(size)[::-1]) / (BORDER * size)).clip(0, 1)
    edge = (edge * edge * (3 - 2 * edge)).astype(np.float32)  # smoothstep
    return soft * edge[:, None] * edge[None, :]


def _add_difference(out: np.ndarray, face: Face, source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> None:
    """Adds mask · (target − source) in place, its edges sharpened by the picture's.

    The network's difference is blurred when it is enlarged, so a hair line that whitens would bleed
    into the skin. Within each small window the difference is regressed on the picture's luminance
    (the slope a of a guided filter, He, Sun & Tang 2013, eq. 5, computed at low resolution as in the
    fast guided filter, He & Sun 2015). The slope then transfers what the enlarged luminance lacks of
    the real one, its detail:

        change = up(difference) + up(a) · (luminance − up(crop luminance))

    Where there is no edge a is near 0 and the change is the plain enlargement.
    """
    difference = target.astype(np.float32) - source
    guide = face.image @ LUMA
    slope = _slope(guide, difference @ LUMA)
    layers = np.dstack([mask[..., None] * difference, mask * slope, guide])
    height, width = out.shape[:2]
    x, y, patch, coverage = unalign(layers, face.quad, width, height)
    if patch.size == 0:
        return
    window = out[y : y + patch.shape[0], x : x + patch.shape[1]]
    detail = window @ LUMA - patch[..., 4]
    change = patch[..., :3] + (patch[..., 3] * detail)[..., None]
    window[:] = _to_uint8(window + coverage[..., None] * change)


def _slope(guide: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the guided filter's smoothed slope of `values` over `guide`, within −1…1; all R×R float32.

    Beyond ±1 texture would be inverted or doubled instead of kept.
    """
    mean_guide, mean_values = _box(guide), _box(values)
    covariance = _box(guide * values) - mean_guide * mean_values
    variance = np.maximum(_box(guide * guide) - mean_guide**2, 0)
    return _box(np.clip(covariance / (variance + np.float32(GUIDE_EPSILON)), -1, 1))


def _box(plane: np.ndarray) -> np.ndarray:
    side = 2 * GUIDE_RADIUS + 1
    return cv2.blur(plane, (side, side), borderType=cv2.BORDER_REPLICATE)


def _blend(out: np.ndarray, face: Face, target: np.ndarray, mask: np.ndarray, strength: float) -> None:
    """Blends the target in place: coarse frequencies over a wide seam, fine ones over a narrow one."""
    height, width = out.shape[:2]
    layers = np.dstack([target.astype(np.float32), mask])
    x, y, patch, coverage = unalign(layers, face.quad, width, height)
    if patch.size == 0:
        return
    window = out[y : y + patch.shape[0], x : x + patch.shape[1]]
    below = window.astype(np.float32)
    # Beyond the quad the target is unknown; the picture continues it, so that no dark edge leaks in.
    above = below + coverage[..., None] * (patch[..., :3] - below)
    weight = np.clip(patch[..., 3] * coverage, 0, 1)
    # The coarsest level still has the seam's width; coarser ones would carry it past the quad.
    levels = max(1, int(np.log2(max(2.0, min(weight.shape) * BORDER / 2))))
    blended = _pyramid_blend(below, above, weight, levels)
    # The pyramid spreads the seam; the second factor keeps it within the quad.
    keep = np.clip(4 * weight, 0, 1)[..., None] * np.float32(strength)
    window[:] = _to_uint8(below + keep * (blended - below))


def _pyramid_blend(below: np.ndarray, above: np.ndarray, weight: np.ndarray, levels: int) -> np.ndarray:
    """Laplacian-pyramid blend of two h×w×3 float32 pictures; weight h×w is 1 where `above` shows."""
    if levels == 0 or min(weight.shape) < 4:
        return below + weight[..., None] * (above - below)
    size = weight.shape[::-1]
    small_below, small_above = cv2.pyrDown(below), cv2.pyrDown(above)
    detail_below = below - cv2.pyrUp(small_below, dstsize=size)
    detail_above = above - cv2.pyrUp(small_above, dstsize=size)
    detail = detail_below + weight[..., None] * (detail_above - detail_below)
    coarse = _pyramid_blend(small_below, small_above, cv2.pyrDown(weight), levels - 1)
    return cv2.pyrUp(coarse, dstsize=size) + detail


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)
