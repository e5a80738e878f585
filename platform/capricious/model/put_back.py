"""A change that the network made, put back into the portrait as it will be delivered, at the network's own resolution.

render/composite.py does the same at the resolution of a painting, and no tensor passes through it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from capricious.faces.image import LUMA
from capricious.faces.label_map import BACKGROUND, EYES, HAIR, MOUTH
from capricious.model.layers import constant

GRID_FILTER = (-1 / 16, 4 / 16, 10 / 16, 4 / 16, -1 / 16)
"""Taps along rows and columns that a change passes: nothing is left of what repeats every two pixels, 3/4 of what
repeats every four, 98 % of eight. The refinement network leaves stripes of two to three pixels on faces, and no
portrait has them."""

EYES_LIMIT, MOUTH_LIMIT = 20.0, 40.0
"""Levels of 255 below which a change of age or gender is held in eyes and mouth: lids may droop, but an iris that was
drawn anew a little aside would be a second one."""

SKIN_COLOUR = 0.4
"""Share of the colour of a change of age or gender that is put back where there is no hair: lines, folds, grey beards
are light and shade, and most of what a change does to the colour of skin is blotches. In hair the portrait's own colour
may fade, and no other come: light hair turned green and yellow with age."""

HAIR_SPREAD = 1 / 8
"""How far light, shade and fading of a change of age or gender are spread in hair: standard deviation as a share of the
crop's side. The network whitens hair in clouds, near the forehead; so hair greys evenly, and keeps its own strands.
What is nearer to white than the hair around it, as skin seen through it, is lightened less, or it would burn out; and
so for dark."""

SPREAD_AT = 4
"""The spreading is done at this part of the size, where so wide a blur is cheap and nobody can tell."""

FEATURE = 1 / 128
"""Softness of the outline of eyes, mouth and hair: standard deviation as a share of the crop's side."""

FEATURE_GAIN = 1.3
"""Times the soft outline, at most 1: they count in full some way beyond it, as lashes and lids move along."""


def put_back(portrait: Tensor, label_map: Tensor, change: Tensor) -> Tensor:
    """Returns portrait + mask · change, B×3×R×R in −1…1, differentiable.

    What render/composite.py does in mode "difference", where nothing has to be enlarged: the sitter's likeness is the
    portrait's, and the network answers for the change alone.

    Args:
        portrait: B×3×R×R in −1…1.
        label_map: B×R×R; the mask is everything but background, its edge a pixel soft.
        change: B×3×R×R, of two renders the difference, or what a refinement network made of it.
    """
    sitter = (label_map != BACKGROUND).unsqueeze(1).to(portrait.dtype)
    mask = avg_pool2d(sitter, 3, 1, 1, count_include_pad=False)
    return (portrait + mask * change.to(portrait.dtype)).clamp(-1.0, 1.0)


def exaggerate(portrait: Tensor, label_map: Tensor, changed: Tensor, strength: float) -> Tensor:
    """Returns a portrait with a change put back `strength` times over and held (its grid, its colour, hair, eyes and
    mouth): B×3×R×R in −1…1.

    Differentiable; what render/composite.py makes by default of a bundle's pictures, but for its softer edges and the
    change of shape.

    Args:
        portrait: B×3×R×R in −1…1.
        label_map: B×R×R.
        changed: B×3×R×R in −1…1, as `put_back` or a refinement network returns it.
        strength: above 0; 1 is the change itself.
    """
    change = strength * _filtered(changed - portrait, constant(GRID_FILTER, changed.dtype, changed.device))
    luma = constant(tuple(LUMA.tolist()), change.dtype, change.device).view(1, 3, 1, 1)
    shade = (change * luma).sum(1, keepdim=True)
    light = (portrait * luma).sum(1, keepdim=True)
    colour, own = change - shade, portrait - light
    faded = (colour * own).sum(1, keepdim=True) / ((own * own).sum(1, keepdim=True) + 127.5**-2)
    hair = _outline(label_map == HAIR, change)
    around, even, faded = _spread(torch.cat([light, shade, faded.clamp(-1.0, 0.0)], 1), hair).split(1, 1)
    lighter = ((1.0 - light) / (1.0 - around).clamp(min=2 / 255)).clamp(0.0, 1.0)
    darker = ((1.0 + light) / (1.0 + around).clamp(min=2 / 255)).clamp(0.0, 1.0)
    shade = shade + hair * (even * torch.where(even > 0, lighter, darker) - shade)
    change = shade + hair * faded * own + (1.0 - hair) * SKIN_COLOUR * colour
    for label, levels in ((EYES, EYES_LIMIT), (MOUTH, MOUTH_LIMIT)):
        limit = levels / 127.5
        change = change + _outline(label_map == label, change) * (limit * torch.tanh(change / limit) - change)
    return (portrait + change).clamp(-1.0, 1.0)


def _outline(inside: Tensor, like: Tensor) -> Tensor:
    """Returns a part of B×R×R label maps softly, B×1×R×R in 0…1, in the dtype of `like`."""
    soft = _blurred(inside.unsqueeze(1).to(like.dtype), FEATURE * inside.shape[-1])
    return (FEATURE_GAIN * soft).clamp(max=1.0)


def _spread(values: Tensor, where: Tensor) -> Tensor:
    """Returns the means of B×C×R×R values around each pixel, weighted by `where`, B×1×R×R, and a bell."""
    small = avg_pool2d(torch.cat([where * values, where], 1), SPREAD_AT)
    blurred = _blurred(small, HAIR_SPREAD * small.shape[-1])
    return interpolate(blurred[:, :-1] / blurred[:, -1:].clamp(min=1e-3), scale_factor=SPREAD_AT, mode="bilinear")


def _blurred(planes: Tensor, sigma: float) -> Tensor:
    """Returns a Gaussian blur of B×C×H×W."""
    reach = math.ceil(4 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=planes.device, dtype=planes.dtype) / sigma) ** 2)
    return _filtered(planes, bell / bell.sum())


def _filtered(planes: Tensor, taps: Tensor) -> Tensor:
    """Filters B×C×H×W, mirrored at its border, along rows and columns."""
    channels, reach = planes.shape[1], len(taps) // 2
    taps = taps.expand(channels, 1, -1)
    rows = conv2d(pad(planes, [reach] * 4, mode="reflect"), taps.unsqueeze(2), groups=channels)
    return conv2d(rows, taps.unsqueeze(3), groups=channels)
