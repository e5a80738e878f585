"""Takes training photographs some of the way to paintings: brushwork, canvas, craquelure, varnish, soft focus.

A network that has seen photographs alone renders a painting as a photograph of somebody else. These are cheap tensor
operations on the batch, on its own device; encoder, discriminator and losses all see the same changed portrait.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

NUMBERS = 16
"""Uniform random numbers in 0…1 that a sample needs: one gate for all, six for the steps, and their strengths."""

STEP_SHARE = 0.5
"""Share of the painterly pictures that each step is applied to."""


def painterly(image: Tensor, numbers: Tensor, probability: float) -> Tensor:
    """Makes a share of B×3×R×R photographs (−1…1) look painted.

    Args:
        numbers: B×NUMBERS in 0…1. The result is a function of picture and numbers alone.
        probability: share of the pictures that are changed at all.
    """
    gates = (numbers[:, 1:7] < STEP_SHARE)[:, :, None, None, None]
    v = numbers[:, 7:, None, None, None]
    painted = image
    for i, step in enumerate((_brushwork, _soft_focus, _varnish, _illumination, _canvas, _craquelure)):
        painted = torch.where(gates[:, i], step(painted, v), painted)
    return torch.where((numbers[:, 0] < probability)[:, None, None, None], painted.clamp(-1.0, 1.0), image)


def _brushwork(image: Tensor, v: Tensor) -> Tensor:
    """Kuwahara's filter, 3×3 windows: each pixel takes the mean of the calmest of four windows around it."""
    side = image.shape[-1]
    padded = pad(image, (2, 2, 2, 2), mode="replicate")
    mean = avg_pool2d(padded, 3, stride=1)  # side + 2
    luma = padded.mean(1, keepdim=True)
    variance = avg_pool2d(luma.square(), 3, stride=1) - avg_pool2d(luma, 3, stride=1).square()
    corners = [(y, x) for y in (0, 2) for x in (0, 2)]
    means = torch.stack([mean[:, :, y : y + side, x : x + side] for y, x in corners])
    spread = torch.stack([variance[:, :, y : y + side, x : x + side] for y, x in corners])
    calmest = spread.argmin(0, keepdim=True).expand(-1, -1, 3, -1, -1)
    return image.lerp(means.gather(0, calmest)[0], 0.5 + 0.5 * v[:, 0])


def _soft_focus(image: Tensor, v: Tensor) -> Tensor:
    return image.lerp(avg_pool2d(image, 3, 1, 1, count_include_pad=False), v[:, 1])


def _varnish(image: Tensor, v: Tensor) -> Tensor:
    """Yellowed varnish and faded pigments: blue sinks most, colours and contrast fade, shadows lift or drown."""
    amount = 0.5 * v[:, 2]
    light = (image + 1.0) / 2.0
    light = light * torch.cat([torch.ones_like(amount), 1.0 - 0.25 * amount, 1.0 - amount], 1)
    light = light.lerp(light.mean(1, keepdim=True), 0.6 * v[:, 3]).clamp(1e-3, 1.0)
    return light ** (0.6 + 1.2 * v[:, 4]) * 2.0 - 1.0


def _illumination(image: Tensor, v: Tensor) -> Tensor:
    """Light from one side: a plane of brightness in a random direction."""
    y, x = _places(image)
    angle = 2.0 * math.pi * v[:, 5]
    plane = x * angle.cos() + y * angle.sin()
    return (image + 1.0) * (1.0 + 0.45 * plane) - 1.0


def _canvas(image: Tensor, v: Tensor) -> Tensor:
    """Two thread waves at right angles, with grain."""
    y, x = _places(image)
    threads = image.shape[-1] * (0.10 + 0.12 * v[:, 6])  # pairs of threads across half the picture
    weave = (2 * math.pi * threads * x).sin() + (2 * math.pi * threads * y).sin()
    grain = _noise(image, v[:, 7], cells=image.shape[-1])
    return (image + 1.0) * (1.0 + 0.035 * (weave + 2.0 * grain)) - 1.0


def _craquelure(image: Tensor, v: Tensor) -> Tensor:
    """Cracks of old paint: the zero lines of smooth noise, dark, in patches."""
    noise = _noise(image, v[:, 8], cells=max(4, image.shape[-1] // 6))
    patchy = (0.5 + _noise(image, v[:, 7], cells=3)).clamp(0.0, 1.0)
    cracks = (1.0 - noise.abs() / 0.06).clamp(0.0, 1.0) * patchy
    return image.lerp(torch.full_like(image, -0.7), 0.4 * cracks)


def _places(image: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel in −1…1, as 1×1×R×1 and 1×1×1×R."""
    place = torch.linspace(-1.0, 1.0, image.shape[-1], device=image.device, dtype=image.dtype)
    return place.view(1, 1, -1, 1), place.view(1, 1, 1, -1)


def _noise(image: Tensor, seeds: Tensor, cells: int) -> Tensor:
    """Noise in −1…1 that varies over 1/cells of the picture, B×1×R×R: a hash of place and seed, so no state."""
    place = torch.arange(cells, device=image.device, dtype=torch.float64)
    mixed = place.view(1, 1, -1, 1) * 12.9898 + place.view(1, 1, 1, -1) * 78.233 + seeds.double() * 3719.0
    values = ((mixed.sin() * 43758.5453).frac().abs() * 2.0 - 1.0).to(image.dtype)
    return values if cells == image.shape[-1] else interpolate(values, image.shape[-2:], mode="bicubic")
