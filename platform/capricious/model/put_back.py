"""A change that the network made, put back into the portrait as it will be delivered, at the network's own resolution.

render/composite.py does the same at the resolution of a painting, and no tensor passes through it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from capricious.faces.image import LUMA
from capricious.faces.label_map import BACKGROUND, EYES, HAIR, MOUTH

EYES_LIMIT, MOUTH_LIMIT = 20.0, 40.0
"""Levels of 255 below which a change of age or gender is held in eyes and mouth: lids may droop, but an iris that was
drawn anew a little aside would be a second one."""

SKIN_COLOUR = 0.4
"""Share of the colour of a change of age or gender that is put back where there is no hair: lines, folds, grey beards
are light and shade, and most of what a change does to the colour of skin is blotches. In hair the portrait's own colour
may fade, and no other come: light hair turned green and yellow with age."""

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
    """Returns a portrait with a change put back `strength` times over, and held: in its colour, in eyes and in mouth.
    B×3×R×R in −1…1.

    Differentiable; what render/composite.py makes by default of a bundle's pictures, but for its softer edges.

    Args:
        portrait: B×3×R×R in −1…1.
        label_map: B×R×R.
        changed: B×3×R×R in −1…1, as `put_back` or a refinement network returns it.
        strength: above 0; 1 is the change itself.
    """
    change = strength * (changed - portrait)
    luma = change.new_tensor(LUMA).view(1, 3, 1, 1)
    shade = (change * luma).sum(1, keepdim=True)
    colour, own = change - shade, portrait - (portrait * luma).sum(1, keepdim=True)
    faded = (colour * own).sum(1, keepdim=True) / ((own * own).sum(1, keepdim=True) + 127.5**-2)
    hair = _outline(label_map == HAIR, change)
    change = shade + hair * faded.clamp(-1.0, 0.0) * own + (1.0 - hair) * SKIN_COLOUR * colour
    for label, levels in ((EYES, EYES_LIMIT), (MOUTH, MOUTH_LIMIT)):
        limit = levels / 127.5
        change = change + _outline(label_map == label, change) * (limit * torch.tanh(change / limit) - change)
    return (portrait + change).clamp(-1.0, 1.0)


def _outline(inside: Tensor, like: Tensor) -> Tensor:
    """Returns a part of B×R×R label maps softly, B×1×R×R in 0…1, in the dtype of `like`."""
    sigma = FEATURE * inside.shape[-1]
    reach = math.ceil(4 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype) / sigma) ** 2)
    bell = bell / bell.sum()
    soft = pad(inside.unsqueeze(1).to(like.dtype), [reach] * 4, mode="reflect")
    soft = conv2d(conv2d(soft, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))
    return (FEATURE_GAIN * soft).clamp(max=1.0)
