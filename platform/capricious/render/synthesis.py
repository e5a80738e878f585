"""The generator's second half as a sweep wants it: the same function as `Generator.synthesize`, with less to do.

What is constant for a portrait, or for ever, is worked in beforehand: batch norm, which in eval mode is an affine map
of each channel, into the modulation (`prepare`); the wide 3×3 convolutions into Winograd's form. What is left for each
variant is the main path alone, with activations overwritten in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, leaky_relu_, relu

from capricious.model.generator import SEED, Generator, Modulations
from capricious.model.layers import SLOPE
from capricious.model.spade import SPADE
from capricious.render.winograd import WinogradConvolution

Convolution = Callable[[Tensor], Tensor]
Segment = tuple[slice, Modulations]
"""Rows of a batch that show one portrait, and its prepared modulations."""


class Synthesis:
    """Makes pictures from prepared modulations, style codes and attributes.

    Args:
        generator: eval mode, plain weights (without spectral norm), on its device. Its weights are used, not changed.
        winograd: use it at all; for float32 on a CPU.
    """

    def __init__(self, generator: Generator, winograd: bool = True):
        self._generator = generator
        # cuDNN has Winograd's algorithm of its own.
        winograd = winograd and generator.picture.weight.device.type == "cpu"
        self._convolutions: dict[nn.Conv2d, Convolution] = {}
        for block in generator.blocks:
            for convolution in (block.conv_1, block.conv_2):
                size = winograd_size(convolution, block.resolution) if winograd else 0
                self._convolutions[convolution] = WinogradConvolution(convolution, size) if size else convolution

    def prepare(self, modulations: Modulations) -> Modulations:
        """Works batch norm into γ and β: N(x)·(1 + γ) + β = x·a + b. Returns a and b of each layer, channels last."""
        return [
            _prepared(spade, gamma, beta)
            for spade, (gamma, beta) in zip(self._generator.spades, modulations, strict=True)
        ]

    def __call__(self, segments: Sequence[Segment], latent: Tensor, attributes: Tensor) -> Tensor:
        """Returns the pictures B×3×R×R in −1…1.

        Args:
            segments: cover the batch's rows in order; each has modulations of batch size 1 from `prepare`.
            latent: B×latent float.
            attributes: B×attributes float.
        """
        net = self._generator
        embedding = None if net.embedding is None else net.embedding(attributes)
        x = net.seed_2(relu(net.seed_1(torch.cat([latent, attributes], 1))))
        x = x.view(len(x), -1, SEED, SEED).contiguous(memory_format=torch.channels_last)
        layers = iter(range(len(net.spades)))

        def spade(layer: SPADE, x: Tensor) -> Tensor:
            number = next(layers)
            return _modulated(layer, x, [(rows, maps[number]) for rows, maps in segments], embedding)

        for block in net.blocks:
            if block.resolution != x.shape[-1]:
                x = interpolate(x, scale_factor=2.0, mode="nearest")
            d = self._convolutions[block.conv_1](leaky_relu_(spade(block.spade_1, x), SLOPE))
            d = self._convolutions[block.conv_2](leaky_relu_(spade(block.spade_2, d), SLOPE))
            skip = block.conv_skip(spade(block.spade_skip, x)) if block.learned_skip else x
            x = d.add_(skip)
        return torch.tanh(net.picture(leaky_relu(x, SLOPE)))


def winograd_size(convolution: nn.Conv2d, resolution: int) -> int:
    """Returns Winograd's m where it is faster than torch's own convolution on a CPU, else 0 (measured, AVX2)."""
    narrow = min(convolution.in_channels, convolution.out_channels)
    if narrow < 256 or resolution > 32:
        return 0
    return 2 if resolution < 16 else 4  # at 8 px, tiles of four would be too few for their many weights


def _prepared(spade: SPADE, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = 1.0 + gamma.float(), beta.float()
    if isinstance(spade.norm, nn.BatchNorm2d):
        assert spade.norm.running_var is not None and spade.norm.running_mean is not None  # batch norm in eval mode
        inverse = torch.rsqrt(spade.norm.running_var + spade.norm.eps)[:, None, None]
        scale = scale * inverse
        shift = shift - scale * spade.norm.running_mean[:, None, None]
    last = torch.channels_last
    return scale.to(gamma.dtype).contiguous(memory_format=last), shift.to(beta.dtype).contiguous(memory_format=last)


def _modulated(
    spade: SPADE, x: Tensor, segments: Sequence[tuple[slice, tuple[Tensor, Tensor]]], embedding: Tensor | None
) -> Tensor:
    if not isinstance(spade.norm, nn.BatchNorm2d):
        x = spade.norm(x)
    y = torch.empty_like(x)
    for rows, (scale, shift) in segments:
        torch.addcmul(shift, x[rows], scale, out=y[rows])
    if spade.affine is not None:
        gain, offset = spade.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        torch.addcmul(offset, y, 1.0 + gain, out=y)
    return y


def segments_of(rows: Sequence[Modulations]) -> Iterator[Segment]:
    """Groups the rows of a batch by portrait.

    Args:
        rows: the prepared modulations of each row; rows of one portrait, with the very same, stand together.
    """
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or rows[stop] is not rows[start]:
            yield slice(start, stop), rows[start]
            start = stop
