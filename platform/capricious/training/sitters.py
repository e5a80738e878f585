"""Who a batch shows, and how far what was requested is from what they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from capricious.training.augment import AGE, AGE_KNOWN, GENDER, GENDER_KNOWN

MISMATCHED_YEARS = 20.0
"""Years from which on another age surely does not go with a portrait."""


@dataclass(frozen=True)
class Sitters:
    """Who is rendered: B×3×R×R portraits, their own B×19 attributes, and those requested of the swap."""

    image: Tensor
    attributes: Tensor
    requested: Tensor | None

    def nearer_more(self, distance: Tensor, half_at_years: float) -> Tensor:
        """Returns the mean of B distances, each weighted by 1 / (1 + |Δage| / half).

        The further the requested age is away, the more may change. A sitter of unknown age counts as `half_at_years`
        away.
        """
        assert self.requested is not None
        years = 100.0 * (self.requested[:, AGE] - self.attributes[:, AGE]).abs()
        years = torch.where(self.attributes[:, AGE_KNOWN] > 0.5, years, torch.full_like(years, half_at_years))
        return (distance / (1.0 + years / half_at_years)).mean()

    def mismatch(self, others: Tensor) -> Tensor:
        """Returns how wrong B×19 attributes are for the sitters, B in 0…1; what is unknown counts as right.

        1 from MISMATCHED_YEARS off the own age on, or with the other gender.
        """
        known = self.attributes * others
        years = 100.0 * (others[:, AGE] - self.attributes[:, AGE]).abs() * known[:, AGE_KNOWN]
        gender = (others[:, GENDER] - self.attributes[:, GENDER]).abs() * known[:, GENDER_KNOWN]
        return torch.maximum(gender, years / MISMATCHED_YEARS).clamp(max=1.0)


def identity_loss(swapped: Tensor, sitters: Sitters, half_at_years: float) -> Tensor:
    """L1 between swapped picture and sitter at a quarter of the resolution, weighted as `Sitters.nearer_more` does.

    Low frequencies carry pose, light, colour and the shape of the head, which must stay; wrinkles are high
    ones and may change.
    """
    distance = (avg_pool2d(swapped, 4) - avg_pool2d(sitters.image.float(), 4)).abs().mean((1, 2, 3))
    return sitters.nearer_more(distance, half_at_years)
