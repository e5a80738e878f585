"""Differentiable augmentation of what the discriminator sees: label map and picture together, real and fake alike.

With few portraits the discriminator learns them by heart; it cannot if it never sees them twice the same. The
generator's gradient passes through, so it does not learn to draw the augmentation (Zhao et al. 2020, arXiv:2006.10738;
with a probability per sample and transform: Karras et al. 2020, arXiv:2006.06676).
"""

from __future__ import annotations

import torch
from torch import Tensor

from capricious.faces.label_map import CLASSES
from capricious.model.layers import constant
from capricious.training.config import PairAugmentConfig

OUTSIDE = len(CLASSES)
"""The label of what is shifted in or cut out: no class, all zeros as a one-hot vector."""

NUMBERS = 12
"""Uniform random numbers in 0…1 that a sample needs: four gates, and what each transform draws."""

SHIFT = 1 / 8
"""Largest translation, as a share of the side. This and the ranges of colour are DiffAugment's."""
CUTOUT = 1 / 2
"""Side of the hole, as a share of the side."""


def augment_pairs(
    label_map: Tensor, image: Tensor, numbers: Tensor, probability: float | Tensor, config: PairAugmentConfig
) -> tuple[Tensor, Tensor]:
    """Returns augmented (label map, image); what moves one moves the other.

    Args:
        label_map: B×R×R class indices; OUTSIDE may be among those returned.
        image: B×3×R×R in −1…1; colours returned may lie beyond.
        numbers: B×NUMBERS in 0…1. The same numbers do the same to a picture and to its reconstruction.
        probability: of each transform, for each sample.
        config: which transforms take part.
    """
    gate = numbers[:, :4] < probability
    used = (config.flip, config.colour, config.translation, config.cutout)
    gate = gate & constant(used, torch.bool, gate.device)
    values = numbers[:, 4:]
    # Half of the flips are none: otherwise a probability of 1 would show all pictures mirrored.
    mirrored = gate[:, 0] & (values[:, 0] < 0.5)
    image = torch.where(mirrored[:, None, None, None], image.flip(-1), image)
    label_map = torch.where(mirrored[:, None, None], label_map.flip(-1), label_map)
    image = _recolour(image, torch.where(gate[:, 1:2], values[:, 1:4], 0.5))
    label_map, image = _translate(label_map, image, torch.where(gate[:, 2:3], values[:, 4:6], 0.5))
    return _cut_out(label_map, image, values[:, 6:8], gate[:, 3])


def _recolour(image: Tensor, values: Tensor) -> Tensor:
    """Brightness ± 0.5, saturation × 0…2, contrast × 0.5…1.5; values of 0.5 change nothing."""
    brightness, saturation, contrast = values.to(image.dtype)[:, :, None, None, None].unbind(1)
    image = image + (brightness - 0.5)
    grey = image.mean(1, keepdim=True)
    image = (image - grey) * (2.0 * saturation) + grey
    mean = image.mean((1, 2, 3), keepdim=True)
    return (image - mean) * (contrast + 0.5) + mean


def _translate(label_map: Tensor, image: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Shifts by whole pixels; black, and OUTSIDE, comes in from the border."""
    side = image.shape[-1]
    shift = ((2.0 * values - 1.0) * SHIFT * side).round().long()
    rows, columns = (torch.arange(side, device=image.device) - shift[:, i : i + 1] for i in (0, 1))
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    rows = rows.clamp(0, side - 1)[:, :, None].expand(-1, -1, side)
    columns = columns.clamp(0, side - 1)[:, None, :].expand(-1, side, -1)

    def moved(x: Tensor) -> Tensor:
        over = [-1, *x.shape[1:-2], -1, -1]
        index = [i.view(len(i), *[1] * (x.ndim - 3), side, side).expand(over) for i in (rows, columns)]
        return x.gather(-2, index[0]).gather(-1, index[1])

    return torch.where(inside, moved(label_map), OUTSIDE), moved(image) * inside[:, None]


def _cut_out(label_map: Tensor, image: Tensor, centre: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Blanks a square around a random centre where `gate` is set."""
    side = image.shape[-1]
    place = torch.arange(side, device=image.device)
    near = [(place - (centre[:, i : i + 1] * side).long()).abs() < CUTOUT * side / 2 for i in (0, 1)]
    hole = gate[:, None, None] & near[0][:, :, None] & near[1][:, None, :]
    return torch.where(hole, OUTSIDE, label_map), image * ~hole[:, None]
