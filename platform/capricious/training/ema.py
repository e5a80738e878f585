"""Exponential moving average of the weights that are released."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Ema(Generic[Network]):
    """A slow copy of a network: what is drawn in the sample grids and saved in the bundle.

    The half-life is counted in images, not steps, so that another batch size averages over the same
    stretch of training (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020).

    Args:
        network: copied at once, in float32; call this before a strategy wraps or partitions it.
        half_life: images after which a weight's past counts half; 0 makes the copy follow exactly.
        ramp_up: the half-life is at most this share of the images seen, so that the copy forgets the
            random start soon.
    """

    def __init__(self, network: Network, half_life: float, ramp_up: float = 0.05):
        self.network: Network = copy.deepcopy(network).float().eval().requires_grad_(False)
        self.half_life = half_life
        self.ramp_up = ramp_up

    @torch.no_grad()
    def update(self, network: nn.Module, images_seen: int, batch_size: int) -> None:
        """Moves towards `network` after a step of `batch_size` images; `images_seen` counts them in.

        Buffers (batch-norm statistics, the vectors of spectral norm) are copied: good enough to go on from. For what
        is released, export.py measures the statistics with the averaged weights.
        """
        half_life = min(self.half_life, images_seen * self.ramp_up)
        kept = 0.5 ** (batch_size / half_life) if half_life > 0 else 0.0
        slow: list[Tensor] = list(self.network.parameters())
        fast = [p.detach().float() for p in network.parameters()]
        torch._foreach_lerp_(slow, fast, 1.0 - kept)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
