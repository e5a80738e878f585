"""What the age estimator is shown of a swapped picture: never the same view twice.

A frozen network can be pleased by patterns that no viewer would call a sign of age. Patterns that survive a small
move, another size, blur and another exposure are far harder to find than wrinkles and grey hair.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

NUMBERS = 7
"""Uniform random numbers in 0…1 that a sample needs."""

SHIFT, SCALE, DEGREES = 0.04, 0.08, 5.0
"""Largest shift (share of the side), change of size and rotation: less than detectors differ on one face."""
BRIGHTNESS, CONTRAST = 0.15, 0.15


def estimator_view(image: Tensor, numbers: Tensor) -> Tensor:
    """Returns B×3×R×R pictures moved, blurred and re-exposed a little, differentiably.

    Args:
        image: B×3×R×R in −1…1.
        numbers: B×NUMBERS in 0…1; all 0.5 but for the blur, which is the share of a 5×5 triangle in the mix.
    """
    signed = 2.0 * numbers.to(image.dtype) - 1.0
    angle, scale = signed[:, 0] * math.radians(DEGREES), 1.0 + SCALE * signed[:, 1]
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    # affine_grid's picture is 2 wide.
    across = torch.stack([cosine, -sine, 2.0 * SHIFT * signed[:, 2]], 1)
    down = torch.stack([sine, cosine, 2.0 * SHIFT * signed[:, 3]], 1)
    grid = affine_grid(torch.stack([across, down], 1), list(image.shape), align_corners=False)
    image = grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    blurred = avg_pool2d(avg_pool2d(image, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)
    image = image.lerp(blurred, numbers[:, 4, None, None, None].to(image.dtype))
    brightness, contrast = (signed[:, i, None, None, None] for i in (5, 6))
    return image * (1.0 + CONTRAST * contrast) + BRIGHTNESS * brightness
