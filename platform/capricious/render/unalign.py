"""From an aligned crop back onto the pixels of its picture: the inverse of faces.align.align()."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import embedding_bag

from capricious.faces.align import side_of, to_crop

Window = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of a picture, in pixels."""

STRIP = 1 << 18
"""Pixels of a window whose taps are held at once, 128 bytes each. Those of a smaller window are kept."""

Taps = tuple[Tensor, Tensor]
"""P×16 int32 crop pixels that make up each of P pixels, and their float32 weights."""


class Unalign:
    """The way from a crop's pixels to those of its picture, prepared once for all layers that go it.

    Bicubic, by the kernel of Catmull and Rom, which leaves a ramp a ramp: the kernels of Pillow's and OpenCV's warps
    (a = −1 and −0.75) ripple every gradient that they enlarge, once each crop pixel.

    Args:
        quad: 4×2 corners as from quad_of().
        size: R, side of the crops.
        window: the part of the picture that is wanted.

    Attributes:
        coverage: h×w float32: 1 inside of the quad, falling to 0 over the last source pixel before its edge, 0 outside.

    Raises:
        Rejection: stage "landmarks", reason "degenerate": the quad has no area.
    """

    def __init__(self, quad: np.ndarray, size: int, window: Window):
        left, top, right, bottom = window
        self.size, self.shape = size, (bottom - top, right - left)
        # Where the source is coarser than the crop (an enlarged face) the crop must be reduced first.
        side = side_of(quad)
        self.grid = min(size, max(1, math.ceil(side)))
        centres = np.array([[left, top], [left + 1, top], [left, top + 1]]) + 0.5
        origin, across, along = to_crop(centres, quad, self.grid)
        self._origin, self._across, self._along = origin, across - origin, along - origin
        # In its own crop, pixel for pixel, a face has no way to go.
        step = np.stack([origin, self._across, self._along])
        self._stays = self.shape == (size, size) and bool((step == [[0.5, 0.5], [1, 0], [0, 1]]).all())
        inside = torch.full(self.shape, math.inf, dtype=torch.float64)
        for axis in (0, 1):
            at = self._at(axis, range(self.shape[0]))
            inside = torch.minimum(inside, torch.minimum(at, self.grid - at))
        self.coverage: np.ndarray = inside.mul_(side / self.grid).clamp_(0.0, 1.0).float().numpy()
        self._kept = list(self._strips()) if inside.numel() <= STRIP and not self._stays else None

    def __call__(self, layers: np.ndarray) -> np.ndarray:
        """Returns R×R×C float32 layers of any sign as h×w×C float32; beyond the quad the crop's edge goes on."""
        if layers.shape[:2] != (self.size, self.size) or layers.ndim != 3:
            raise ValueError(f"layers must be {self.size}×{self.size}×C, found: {layers.shape}")
        if self._stays:
            return layers.astype(np.float32, copy=False)
        if self.grid < self.size:
            layers = np.dstack([self._reduced(layers[..., c]) for c in range(layers.shape[2])])
        table = torch.from_numpy(np.ascontiguousarray(layers, np.float32)).view(-1, layers.shape[2])
        strips = self._strips() if self._kept is None else self._kept
        parts = [embedding_bag(pixels, table, mode="sum", per_sample_weights=weights) for pixels, weights in strips]
        return torch.cat(parts).view(*self.shape, -1).numpy() if parts else np.zeros((*self.shape, layers.shape[2]))

    def _at(self, axis: int, rows: range) -> Tensor:
        """Where the centres of the pixels of some rows lie in the crop: float64."""
        down = torch.arange(rows.start, rows.stop, dtype=torch.float64) * self._along[axis] + self._origin[axis]
        return down[:, None] + torch.arange(self.shape[1], dtype=torch.float64) * self._across[axis]

    def _strips(self) -> Iterator[Taps]:
        height, width = self.shape
        step = max(1, STRIP // max(1, width))
        for start in range(0, height if width else 0, step):
            rows = range(start, min(start + step, height))
            columns, across = self._taps(self._at(0, rows))
            lines, down = self._taps(self._at(1, rows))
            pixels = lines[:, :, None] * self.grid + columns[:, None, :]
            yield pixels.view(-1, 16), (down[:, :, None] * across[:, None, :]).view(-1, 16)

    def _taps(self, at: Tensor) -> Taps:
        """Returns the four neighbours of each place along an axis, and their weights, P×4."""
        before = (at - 0.5).floor().view(-1)
        t = (at.view(-1) - 0.5 - before).float()
        # Keys 1981, eq. 4, with a = −1/2.
        weights = torch.stack(
            [
                ((2 - t) * t - 1) * t / 2,
                (3 * t - 5) * t * t / 2 + 1,
                ((4 - 3 * t) * t + 1) * t / 2,
                (t - 1) * t * t / 2,
            ],
            1,
        )
        neighbours = before.int()[:, None] + torch.arange(-1, 3, dtype=torch.int32)
        return neighbours.clamp_(0, self.grid - 1), weights

    def _reduced(self, plane: np.ndarray) -> np.ndarray:
        size = (self.grid, self.grid)
        return np.asarray(Image.fromarray(np.asarray(plane, np.float32)).resize(size, Image.Resampling.LANCZOS))
