"""Puts a re-rendered face back into its picture at the picture's own resolution (docs/architecture.md).

A painting has ten times the resolution of the network. What the network knows is the *change* from
one attribute to another; what only the painting knows is its brushwork, craquelure and canvas. So
paste_into() adds the difference of two renders to the painting instead of replacing pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import cv2
import numpy as np

from capricious.data.records import Face
from capricious.errors import ConfigError
from capricious.faces.align import bounds_of, unalign
from capricious.faces.label_map import BACKGROUND, resize_label_map
from capricious.model.bundle import MAX_STRENGTH
from capricious.render.scan import Scan

MODES = ("difference", "blend")

FEATHER = 1 / 40
"""Default softness of the mask's edge: standard deviation as a share of the crop's side."""

BORDER = 1 / 12
"""Width of the strip along the crop's edge in which the mask fades to 0, as a share of its side."""

GUIDE_RADIUS = 2
"""Radius in crop pixels of the guided filter's window: an edge is sharpened from this near."""

GUIDE_EPSILON = (0.05 * 255) ** 2
"""Luminance variance below which a window counts as texture, which is kept, and not as an edge."""

TILE = 1024
"""Side in source pixels of the tiles that a face is worked on in."""

LEVELS = 5
"""Most levels of the blend's pyramid: its coarsest pixel is 32 source pixels wide."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class CompositeConfig:
    """How faces are put back into their picture: see paste_into()."""

    mode: Literal["difference", "blend"] = "difference"
    """difference keeps brushwork and canvas; blend puts the render itself there."""
    strength: float | None = None
    """0 (the picture) … 1 (the render); beyond 1 exaggerates. None: a difference of what the bundle asks for, a blend
    of 1."""

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 <= self.strength <= MAX_STRENGTH:
            raise ConfigError(f"composite.strength must be in 0…{MAX_STRENGTH:g}, found: {self.strength}")

    def settled(self, strength: float) -> Compositing:
        """Returns what is meant where the bundle that renders asks for `strength` (`Bundle.strength`)."""
        if self.strength is not None:
            return Compositing(self.mode, self.strength)
        return Compositing(self.mode, strength if self.mode == "difference" else 1.0)


class Compositing(NamedTuple):
    """A CompositeConfig that leaves nothing open."""

    mode: Literal["difference", "blend"]
    strength: float


AS_THE_BUNDLE_ASKS = CompositeConfig()
DIFFERENCE = Compositing("difference", 1.0)


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
    """Returns a picture, H×W×3 uint8, with one face changed from `source` to `target`: see paste_into()."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"picture must be H×W×3 uint8, found: {picture.shape} {picture.dtype}")
    return paste_into(Scan(picture), face, source, target, mode=mode, strength=strength, feather=feather).srgb


def paste_into(
    scan: Scan,
    face: Face,
    source: np.ndarray,
    target: np.ndarray,
    *,
    mode: str = "difference",
    strength: float = 1.0,
    feather: float = FEATHER,
) -> Scan:
    """Returns the scan with one face changed from `source` to `target`.

    Call it face after face for a picture with several sitters. Works tile by tile: besides the copy it needs some
    hundred MB, however large face and picture are.

    Args:
        scan: the picture that `face` was found in. It is not modified.
        face: its quad says where, its label map what belongs to the sitter, its image is the guide.
        source: R×R×3 uint8, the render at the sitter's own attributes.
        target: R×R×3 uint8, the render at the wanted attributes.
        mode: "difference" adds target − source, so that what both renders get wrong cancels out and the
            painting's texture stays: where the two are equal the picture keeps its very values.
            "blend" puts the target itself there, blended over a Laplacian pyramid (Burt & Adelson 1983):
            smoother where a render departs far from the picture, at the network's resolution.
        strength: 0 (the picture) … 1 (the target); beyond 1 exaggerates.
        feather: softness of the mask's edge, as a share of the crop's side.

    Returns:
        A scan of the same size and depth; pixels outside of the face's quad are the picture's own.

    Raises:
        ValueError: a shape, the mode, the strength or the feather is wrong; the message says which.
        Rejection: stage "landmarks", reason "degenerate": the quad has no area.
    """
    shape = face.image.shape
    for name, render in (("source", source), ("target", target)):
        if render.shape != shape or render.dtype != np.uint8:
            raise ValueError(f"{name} must be uint8 of the face's {shape}, found: {render.shape} {render.dtype}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, found: {mode!r}")
    if not (np.isfinite(strength) and strength >= 0) or not 0 < feather <= 0.5:
        raise ValueError(f"strength must be ≥ 0 and feather in 0…0.5, found: {strength} and {feather}")
    mask = sitter_mask(face.label_map, shape[0], feather)
    out = scan.copy()
    if mode == "difference":
        layers = _difference_layers(face, source, target, mask * np.float32(strength))
        for tile in _tiles(face.quad, scan.srgb):
            out.add(*_slices(tile), _difference(scan.srgb, face.quad, layers, tile))
    else:
        layers = np.dstack([target.astype(np.float32), mask])
        for tile in _tiles(face.quad, scan.srgb):
            out.add(*_slices(tile), strength * _blend(scan.srgb, face.quad, layers, tile))
    return out


def put_back(
    crop: np.ndarray,
    face: Face,
    source: np.ndarray,
    targets: Iterable[np.ndarray],
    composite: Compositing = DIFFERENCE,
) -> np.ndarray:
    """Returns an aligned crop as paste_into() would change the picture that it was cut from, V×S×S×3 uint8.

    Args:
        crop: S×S×3 uint8, of any size.
        face: whose crop it is, at the resolution of the renders.
        source: R×R×3 uint8, as for paste_into().
        targets: V of R×R×3 uint8, one after the other the target.
        composite: how.
    """
    side = crop.shape[0]
    whole = np.array([[0, 0], [0, side], [side, side], [side, 0]], np.float32)
    face = replace(face, quad=whole)
    mode, strength = composite
    return np.stack([paste_back(crop, face, source, target, mode=mode, strength=strength) for target in targets])


Tile = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of the picture, in pixels."""


def _tiles(quad: np.ndarray, picture: np.ndarray) -> Iterator[Tile]:
    """Cuts the part of the picture under a quad along multiples of TILE."""
    height, width = picture.shape[:2]
    left, top, right, bottom = bounds_of(quad, width, height)
    for y in range(top - top % TILE, bottom, TILE):
        for x in range(left - left % TILE, right, TILE):
            yield max(x, left), max(y, top), min(x + TILE, right), min(y + TILE, bottom)


def _slices(tile: Tile) -> tuple[slice, slice]:
    left, top, right, bottom = tile
    return slice(top, bottom), slice(left, right)


def sitter_mask(label_map: np.ndarray, size: int, feather: float = FEATHER) -> np.ndarray:
    """Returns the size×size float32 mask, 0…1, of everything but background, soft and 0 at the border."""
    inside = (resize_label_map(label_map, size) != BACKGROUND).astype(np.float32)
    soft = cv2.GaussianBlur(inside, (0, 0), feather * size, borderType=cv2.BORDER_REPLICATE)
    edge = (np.minimum(np.arange(size), np.arange(size)[::-1]) / (BORDER * size)).clip(0, 1)
    edge = (edge * edge * (3 - 2 * edge)).astype(np.float32)  # smoothstep
    return soft * edge[:, None] * edge[None, :]


def _difference_layers(face: Face, source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns R×R×5 float32: mask · (target − source) (3), mask · slope, and the crop's luminance.

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
    return np.dstack([mask[..., None] * difference, mask * slope, guide])


def _difference(picture: np.ndarray, quad: np.ndarray, layers: np.ndarray, tile: Tile) -> np.ndarray:
    """Returns the change of one tile, h×w×3 float32, as _difference_layers() explains."""
    height, width = picture.shape[:2]
    _, _, patch, coverage = unalign(layers, quad, width, height, tile)
    detail = picture[_slices(tile)] @ LUMA - patch[..., 4]
    return coverage[..., None] * (patch[..., :3] + (patch[..., 3] * detail)[..., None])


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


def _blend(picture: np.ndarray, quad: np.ndarray, layers: np.ndarray, tile: Tile) -> np.ndarray:
    """Returns the change of one tile when the target is blended in: coarse frequencies over a wide seam, fine ones
    over a narrow one. Every tile is computed with a margin wider than the pyramid reaches, and is cut on multiples of
    its coarsest pixel, so that tiles meet without a seam."""
    height, width = picture.shape[:2]
    whole = bounds_of(quad, width, height)
    # The coarsest level still has the seam's width; coarser ones would carry it past the quad.
    side = min(whole[2] - whole[0], whole[3] - whole[1])
    levels = int(np.clip(np.log2(max(2.0, side * BORDER / 2)), 1, LEVELS))
    margin, coarsest = 8 << levels, 1 << levels
    left, top = (max(0, start - margin) // coarsest * coarsest for start in tile[:2])
    right, bottom = (min(end, stop + margin) for end, stop in zip((width, height), tile[2:], strict=True))
    _, _, patch, coverage = unalign(layers, quad, width, height, (left, top, right, bottom))
    below = picture[top:bottom, left:right].astype(np.float32)
    # Beyond the quad the target is unknown; the picture continues it, so that no dark edge leaks in.
    above = below + coverage[..., None] * (patch[..., :3] - below)
    weight = np.clip(patch[..., 3] * coverage, 0, 1)
    blended = _pyramid_blend(below, above, weight, levels)
    # The pyramid spreads the seam; the second factor keeps it within the quad.
    change = np.clip(4 * weight, 0, 1)[..., None] * (blended - below)
    return change[tile[1] - top : tile[3] - top, tile[0] - left : tile[2] - left]


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
