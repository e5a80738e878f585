"""From sRGB into the colours of a file's own profile, in fractions of a level.

Pillow's colour management knows no more than 8 bits of RGB. A faint change that is carried over in such steps makes
contours in a smooth 16-bit sky; so it goes through a table of the profile, between whose entries is interpolated.
"""

from __future__ import annotations

import io
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from PIL import Image, ImageCms
from torch.nn.functional import grid_sample

LEVELS = np.array([0, 1, 2, *range(3, 15, 3), *range(15, 256, 15)])
"""Of red, green and blue, at which a profile is looked up: closer in the shadows, where curves of profiles bend."""

_REACH = np.minimum(np.minimum(LEVELS // 8, 4), 255 - LEVELS)
"""How far around a level the profile is asked, too: the mean of 27 answers is 5 times as exact as one of 8 bits."""


def _place(levels: np.ndarray) -> np.ndarray:
    """Returns where levels, 0…255 and fractions of them, lie in LEVELS: 3 for 3.0, 3⅓ for 4.0."""
    return levels / 15 + np.minimum(levels, 15) * (1 / 3 - 1 / 15) + np.minimum(levels, 3) * (1 - 1 / 3)


class NativeColours:
    """The way from sRGB into the colours of an RGB profile: relative colorimetric, with black point compensation.

    Args:
        icc: the profile, of RGB colours.

    Raises:
        PyCMSError: the profile does not say how its colours are made.
    """

    def __init__(self, icc: bytes):
        transform = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"),
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        answers = [_asked(transform, aside) for aside in product((-1, 0, 1), repeat=3)]
        self._table = np.stack(answers).mean(axis=0, dtype=np.float32)
        self._volume = torch.from_numpy(self._table).permute(3, 0, 1, 2)[None].contiguous()

    @property
    def are_srgb(self) -> bool:
        """Whether there is next to no way to go."""
        return bool(np.abs(self._table - _grid(LEVELS, LEVELS, LEVELS)).max() <= 1)

    def __call__(self, srgb: np.ndarray) -> np.ndarray:
        """Returns h×w×3 float32 levels, 0…255, as levels of the profile, likewise."""
        places = _place(srgb[..., ::-1]) * np.float32(2 / (len(LEVELS) - 1)) - 1  # blue is the table's last axis
        grid = torch.from_numpy(np.ascontiguousarray(places, np.float32))[None, None]
        return grid_sample(self._volume, grid, align_corners=True)[0, :, 0].permute(1, 2, 0).numpy()


@lru_cache(maxsize=8)  # a collection has few
def native_colours(icc: bytes) -> NativeColours | None:
    """Returns the way into a profile's colours, or None where these are sRGB's."""
    colours = NativeColours(icc)
    return None if colours.are_srgb else colours


def _grid(*axes: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def _asked(transform: ImageCms.ImageCmsTransform, aside: tuple[int, ...]) -> np.ndarray:
    """Returns what becomes of all LEVELS, or of those beside them: N×N×N×3 uint8, by red, green and blue."""
    levels = _grid(*(LEVELS + step * _REACH for step in aside)).astype(np.uint8)
    flat = Image.fromarray(levels.reshape(1, -1, 3))
    return np.asarray(ImageCms.applyTransform(flat, transform)).reshape(levels.shape)
