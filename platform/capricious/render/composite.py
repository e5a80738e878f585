"""Puts a re-rendered face back into its picture at the picture's own resolution (docs/architecture.md).

A painting has ten times the resolution of the network. What the network knows is the *change* from
one attribute to another; what only the painting knows is its brushwork, craquelure and canvas. So
a Placement adds the difference of two renders to the painting instead of replacing pixels. Then it moves the painting's
pixels where a face of the other age has another shape (render/shape_change.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import cv2
import numpy as np

from capricious.data.records import Face
from capricious.errors import ConfigError
from capricious.faces.align import bounds_of, to_crop
from capricious.faces.attributes import Attributes
from capricious.faces.image import LUMA
from capricious.faces.label_map import BACKGROUND, resize_label_map
from capricious.model.bundle import MAX_STRENGTH
from capricious.model.put_back import EYES_LIMIT, GRID_FILTER, HAIR_SPREAD, MOUTH_LIMIT, SKIN_COLOUR
from capricious.render.blend import BORDER, blend
from capricious.render.held_change import HeldChange
from capricious.render.movement import move
from capricious.render.scan import Scan
from capricious.render.shape_change import ShapeChange
from capricious.render.sweep import Variant
from capricious.render.unalign import STRIP, Unalign, Window

MODES = ("difference", "blend")

FEATHER = 1 / 40
"""Default softness of the mask's edge: standard deviation as a share of the crop's side."""

GUIDE_RADIUS = 2
"""Radius in crop pixels of the guided filter's window: an edge is sharpened from this near."""

GUIDE_EPSILON = (0.05 * 255) ** 2
"""Luminance variance below which a window counts as texture, which is kept, and not as an edge."""

TILE = 1024
"""Side in source pixels of the tiles that a face is worked on in."""

TOGETHER = 8
"""Variants that are put back at once: their way is gone once, and each gets the pixels that it gets alone."""


@dataclass(frozen=True)
class CompositeConfig:
    """How faces are put back into their picture: see Placement."""

    mode: Literal["difference", "blend"] = "difference"
    """difference keeps brushwork and canvas; blend puts the render itself there."""
    strength: float | None = None
    """0 (the picture) … 1 (the render); beyond 1 exaggerates. None: a difference of what the bundle asks for, a blend
    of 1."""
    shape: float = 1.0
    """Share of how mean faces differ in shape between the sitter's age and gender and the requested ones, by which the
    picture is moved: a child's chin is higher. 0: every pixel stays where it is."""
    grid_filter: bool = True
    """Of a difference nothing passes that repeats every two or three of its pixels: networks like to leave a grid."""
    eyes_limit: float = EYES_LIMIT
    """Levels of 255 below which a difference is held in the eyes where only age or gender change: lids may droop, but
    an iris that was drawn anew a little aside would be a second one. inf: no limit."""
    mouth_limit: float = MOUTH_LIMIT
    """The same of the mouth, for the sake of lips and teeth."""
    skin_colour: float = SKIN_COLOUR
    """Share of a difference's colour that counts where there is no hair, likewise; its light and shade count in full.
    0 leaves every hue as it was; 1 puts blotches back, too."""
    hair_fades: bool = True
    """A difference may fade the colour of hair, likewise, and not bring another: greying, no green and yellow."""
    hair_spread: float = HAIR_SPREAD
    """How far a difference's light, shade and fading are spread in hair, likewise: standard deviation as a share of the
    crop's side. Hair greys evenly and keeps its strands; at 0 it whitens in clouds."""

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 <= self.strength <= MAX_STRENGTH:
            raise ConfigError(f"composite.strength must be in 0…{MAX_STRENGTH:g}, found: {self.strength}")
        if not (self.eyes_limit > 0 and self.mouth_limit > 0):
            found = f"{self.eyes_limit} and {self.mouth_limit}"
            raise ConfigError(f"composite.eyes_limit and mouth_limit must be above 0, found: {found}")
        if not 0 <= self.skin_colour <= 1:
            raise ConfigError(f"composite.skin_colour must be in 0…1, found: {self.skin_colour}")
        if not 0 <= self.hair_spread <= 1:
            raise ConfigError(f"composite.hair_spread must be in 0…1, found: {self.hair_spread}")
        if not 0 <= self.shape <= 2:
            raise ConfigError(f"composite.shape must be in 0…2, found: {self.shape}")

    def settled(self, strength: float) -> Compositing:
        """Returns what is meant where the bundle that renders asks for `strength` (`Bundle.strength`)."""
        if self.strength is not None:
            strength = self.strength
        elif self.mode == "blend":
            strength = 1.0
        return Compositing(**{**vars(self), "strength": strength})


class Compositing(NamedTuple):
    """A CompositeConfig that leaves nothing open."""

    mode: Literal["difference", "blend"] = "difference"
    strength: float = 1.0
    shape: float = CompositeConfig.shape
    grid_filter: bool = CompositeConfig.grid_filter
    eyes_limit: float = CompositeConfig.eyes_limit
    mouth_limit: float = CompositeConfig.mouth_limit
    skin_colour: float = CompositeConfig.skin_colour
    hair_fades: bool = CompositeConfig.hair_fades
    hair_spread: float = CompositeConfig.hair_spread

    def of(self, variant: Variant) -> Compositing:
        """Returns what holds for a variant: what changes more than age and gender may change everything in full."""
        if set(variant.changes) <= {"age", "gender"} and not variant.style:
            return self
        return self._replace(eyes_limit=np.inf, mouth_limit=np.inf, skin_colour=1.0, hair_fades=False, hair_spread=0.0)


AS_THE_BUNDLE_ASKS = CompositeConfig()
DIFFERENCE = Compositing()


class Placement:
    """A face in its picture, and what all its variants share.

    Works tile by tile: it needs some hundred MB, however large face and picture are.

    Args:
        scan: the picture that `face` was found in.
        face: its quad says where, its label map what belongs to the sitter, its image is the guide.
        reconstruction: R×R×3 uint8, the render at the sitter's own attributes.
        composite: how. "difference" adds target − reconstruction, so that what both renders get wrong cancels out and
            the painting's texture stays: where the two are equal the picture keeps its very values. "blend" puts the
            target itself there, blended over a Laplacian pyramid: smoother where a render departs far from the picture,
            at the network's resolution. Strength is 0 (the picture) … 1 (the target); beyond 1 exaggerates.
        feather: softness of the mask's edge, as a share of the crop's side.

    Raises:
        ValueError: a shape, the mode, the strength or the feather is wrong; the message says which.
        Rejection: stage "landmarks", reason "degenerate": the quad has no area.
    """

    def __init__(
        self, scan: Scan, face: Face, reconstruction: np.ndarray, composite: Compositing, *, feather: float = FEATHER
    ):
        mode, strength = composite.mode, composite.strength
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, found: {mode!r}")
        if not (np.isfinite(strength) and strength >= 0) or not 0 < feather <= 0.5:
            raise ValueError(f"strength must be ≥ 0 and feather in 0…0.5, found: {strength} and {feather}")
        self._face, self._picture = face, scan.srgb
        self._reconstruction = self._checked("reconstruction", reconstruction)
        self._difference, self._strength = mode == "difference", np.float32(strength)
        self._mask = sitter_mask(face.label_map, face.image.shape[0], feather)
        self._held = HeldChange(
            face,
            strength,
            composite.eyes_limit,
            composite.mouth_limit,
            composite.skin_colour,
            composite.hair_fades,
            composite.hair_spread,
        )
        self._taps = np.array(GRID_FILTER if composite.grid_filter else (1.0,), np.float32)
        self._guide = _Guide(self._filtered(face.image @ LUMA))  # as sharp as what is regressed on it
        self._shape = ShapeChange(face, composite.shape)
        self._tiles = list(_tiles(face.quad, scan.srgb))
        self._kept: dict[Window, tuple[Unalign, np.ndarray]] = {}

    def paint(
        self,
        onto: Sequence[Scan],
        targets: Sequence[np.ndarray] | np.ndarray,
        attributes: Sequence[Attributes] | None = None,
    ) -> None:
        """Changes the face from the reconstruction to each of V targets, R×R×3 uint8, in place, each on its own scan.

        The scans are copies of the placement's, on which other faces may have been changed. Pixels outside of the
        face's quad keep their values. What some targets are made into holds 16 V bytes for each pixel of a tile.
        `attributes` are those of the targets, by which the face changes its shape; None: it keeps it.
        """
        self._recolour(onto, targets)
        for scan, wanted in zip(onto, attributes or (), strict=attributes is not None):
            if (shift := self._shape(wanted)) is not None:
                move(scan, self._face.quad, shift, self._tiles)

    def _recolour(self, onto: Sequence[Scan], targets: Sequence[np.ndarray] | np.ndarray) -> None:
        wanted = [self._checked("target", target).astype(np.float32) for target in targets]
        if self._difference:
            layers = np.dstack([self._layers(target) for target in wanted])
            for tile in self._tiles:
                for scan, change in zip(onto, self._changes(layers, tile), strict=True):
                    scan.add(*_slices(tile), change)
            return
        for scan, target in zip(onto, wanted, strict=True):
            layers = np.dstack([target, self._mask])
            below = scan.srgb.copy()  # a tile reads beyond its edge
            for tile in self._tiles:
                scan.add(*_slices(tile), self._strength * blend(below, self._face.quad, layers, tile))

    def _layers(self, target: np.ndarray) -> np.ndarray:
        """Returns mask · strength · (target − reconstruction) (3) and mask · strength · slope (1), R×R×4 float32."""
        difference = self._held(self._filtered(target - self._reconstruction))
        slope = self._guide.slope(difference @ LUMA)
        return self._mask[..., None] * self._strength * np.dstack([difference, slope])

    def _filtered(self, values: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(values, -1, self._taps, self._taps)

    def _checked(self, name: str, render: np.ndarray) -> np.ndarray:
        shape = self._face.image.shape
        if render.shape != shape or render.dtype != np.uint8:
            raise ValueError(f"{name} must be uint8 of the face's {shape}, found: {render.shape} {render.dtype}")
        return render

    def _changes(self, layers: np.ndarray, tile: Window) -> Iterator[np.ndarray]:
        """Yields the changes of one tile, V of h×w×3 float32.

        The network's difference is blurred when it is enlarged, so a hair line that whitens would bleed
        into the skin. Within each small window the difference is regressed on the picture's luminance
        (the slope a of a guided filter, He, Sun & Tang 2013, eq. 5, computed at low resolution as in the
        fast guided filter, He & Sun 2015). The slope then transfers what the enlarged luminance lacks of
        the real one, its detail:

            change = up(difference) + up(a) · (luminance − up(crop luminance))

        Where there is no edge a is near 0 and the change is the plain enlargement.

        Args:
            layers: R×R×4V float32, V times what _layers() makes.
        """
        way, detail = self._kept.get(tile) or self._ground(tile)
        for patch in np.split(way(layers), layers.shape[2] // 4, axis=2):
            yield way.coverage[..., None] * (patch[..., :3] + patch[..., 3:] * detail)

    def _ground(self, tile: Window) -> tuple[Unalign, np.ndarray]:
        """Returns the way to a tile, and the picture's detail there: h×w×1 float32."""
        way = Unalign(self._face.quad, len(self._guide.plane), tile)
        detail = (self._picture[_slices(tile)] @ LUMA)[..., None] - way(self._guide.plane[..., None])
        if len(self._tiles) == 1 and detail.size <= STRIP:
            self._kept[tile] = way, detail
        return way, detail


class _Guide:
    """Of a guided filter what depends on the guide alone; R×R float32 luminance."""

    def __init__(self, plane: np.ndarray):
        self.plane, self._mean = plane, _box(plane)
        self._variance = np.maximum(_box(plane * plane) - self._mean**2, 0) + np.float32(GUIDE_EPSILON)

    def slope(self, values: np.ndarray) -> np.ndarray:
        """Returns the filter's smoothed slope of R×R `values` over the guide, within −1…1.

        Beyond ±1 texture would be inverted or doubled instead of kept.
        """
        covariance = _box(self.plane * values) - self._mean * _box(values)
        return _box(np.clip(covariance / self._variance, -1, 1))


def put_back(
    crop: np.ndarray,
    face: Face,
    reconstruction: np.ndarray,
    targets: Sequence[np.ndarray] | np.ndarray,
    composite: Compositing = DIFFERENCE,
    attributes: Sequence[Attributes] | None = None,
) -> np.ndarray:
    """Returns an aligned crop as a Placement would change the picture that it was cut from, V×S×S×3 uint8.

    Args:
        crop: S×S×3 uint8, of any size.
        face: whose crop it is, at the resolution of the renders.
        reconstruction: R×R×3 uint8, as of a Placement.
        targets: V of R×R×3 uint8.
        composite: how.
        attributes: of the targets, as Placement.paint() takes them.
    """
    scan = Scan(crop)
    placement = Placement(scan, in_crop(face, len(crop)), reconstruction, composite)
    changed = [scan.copy() for _ in targets]
    for start in range(0, len(changed), TOGETHER):
        some = slice(start, start + TOGETHER)
        placement.paint(changed[some], targets[some], None if attributes is None else attributes[some])
    return np.stack([each.srgb for each in changed])


def in_crop(face: Face, side: int) -> Face:
    """Returns a face as it lies in a side×side picture of its crop."""
    quad = np.array([[0, 0], [0, side], [side, side], [side, 0]], np.float32)
    return replace(face, quad=quad, landmarks=to_crop(face.landmarks, face.quad, side).astype(np.float32))


def _tiles(quad: np.ndarray, picture: np.ndarray) -> Iterator[Window]:
    """Cuts the part of the picture under a quad along multiples of TILE."""
    height, width = picture.shape[:2]
    left, top, right, bottom = bounds_of(quad, width, height)
    for y in range(top - top % TILE, bottom, TILE):
        for x in range(left - left % TILE, right, TILE):
            yield max(x, left), max(y, top), min(x + TILE, right), min(y + TILE, bottom)


def _slices(tile: Window) -> tuple[slice, slice]:
    left, top, right, bottom = tile
    return slice(top, bottom), slice(left, right)


def sitter_mask(label_map: np.ndarray, size: int, feather: float = FEATHER) -> np.ndarray:
    """Returns the size×size float32 mask, 0…1, of everything but background, soft and 0 at the border."""
    inside = (resize_label_map(label_map, size) != BACKGROUND).astype(np.float32)
    soft = cv2.GaussianBlur(inside, (0, 0), feather * size, borderType=cv2.BORDER_REPLICATE)
    edge = (np.minimum(np.arange(size), np.arange(size)[::-1]) / (BORDER * size)).clip(0, 1)
    edge = (edge * edge * (3 - 2 * edge)).astype(np.float32)  # smoothstep
    return soft * edge[:, None] * edge[None, :]


def _box(plane: np.ndarray) -> np.ndarray:
    side = 2 * GUIDE_RADIUS + 1
    return cv2.blur(plane, (side, side), borderType=cv2.BORDER_REPLICATE)
