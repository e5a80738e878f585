"""Spatially-adaptive normalisation and its residual block (Park et al. 2019, arXiv:1903.07291, §3, appendix A)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, leaky_relu, relu

from capricious.faces.label_map import CLASSES
from capricious.model.layers import SLOPE, convolution, initialize
from capricious.model.patches import OUTSIDE, PatchConvolution, Patches

Modulation = tuple[Tensor, Tensor]
"""γ and β of one SPADE layer, each B×C×H×W, or 1×C×H×W for one label map shared by a whole batch."""


def dtype_of(network: nn.Module) -> torch.dtype:
    """Returns the type of a network's weights without reading one.

    Reading a weight outside of its layer makes ZeRO-3 gather it from all processes. Whether a process works on distinct
    patches depends on its own pictures, and processes that gather in different orders fail.
    """
    return next(network.parameters()).dtype


class SPADE(nn.Module):
    """y = N(x)·(1 + γ(m)) + β(m), then y·(1 + s(a)) + t(a) if the layer is conditioned on attributes.

    N is parameter-free. γ and β are two 3×3 convolutions of h = ReLU(conv3×3(one-hot m)), run as one
    convolution with 2C outputs (the first C are γ), without spectral norm.

    The attribute affine comes after the modulation, not between N and it: γ and β then stay functions of
    the label map alone, so a sweep computes them once. s and t start at 0, where the layer is plain SPADE.

    Args:
        channels: C.
        hidden: channels of h.
        norm: "batch" or "instance".
        embedding: size of the attribute embedding, 0 for a layer without attribute affine.
        activation: end with a leaky ReLU, which is then compiled as one with the rest.
    """

    def __init__(self, channels: int, hidden: int, norm: str, embedding: int = 0, activation: bool = False):
        super().__init__()
        self.activation = activation
        if norm == "batch":
            self.norm: nn.Module = nn.BatchNorm2d(channels, affine=False)
        else:
            self.norm = nn.InstanceNorm2d(channels)
        self.shared = PatchConvolution(len(CLASSES), hidden)
        self.modulation = PatchConvolution(hidden, 2 * channels)
        # Of the second one γ and β each are initialised, by a fan-out of their own.
        for weight in (self.shared.weight.data, *self.modulation.weight.data.chunk(2)):
            initialize(weight)
        self.affine: nn.Linear | None = None
        if embedding:
            self.affine = nn.Linear(embedding, 2 * channels)
            nn.init.zeros_(self.affine.weight)
            nn.init.zeros_(self.affine.bias)

    def modulate(self, labels: Tensor) -> Modulation:
        """Returns γ and β for the one-hot label map B×K×H×W at this layer's resolution."""
        gamma, beta = self.modulation(relu(self.shared(labels))).chunk(2, dim=1)
        return gamma, beta

    def modulate_distinct(self, patches: Patches) -> Modulation:
        """Returns what `modulate` returns for the same label maps, channels last, computed once per distinct patch.

        Equal up to the order of summation, 2e-6 in float32; so are the gradients.
        """
        labels = torch.eye(OUTSIDE + 1, OUTSIDE, dtype=dtype_of(self), device=patches.small.device)
        hidden = relu(self.shared(labels, patches.small))
        inside = patches.small[:, 4:5] != OUTSIDE  # the second convolution is padded with hidden rows of zeros
        rows = self.modulation(hidden * inside, patches.large)
        # As an embedding: it sums the gradients of its rows fast, and always in the same order.
        gamma, beta = embedding(patches.pixels, rows).permute(0, 3, 1, 2).chunk(2, dim=1)
        return gamma, beta

    def forward(self, x: Tensor, modulation: Modulation, embedding: Tensor | None = None) -> Tensor:
        """x: B×C×H×W; embedding: B×E where the layer has an attribute affine. Returns B×C×H×W."""
        gamma, beta = modulation
        y = torch.addcmul(beta, self.norm(x), 1.0 + gamma)
        if self.affine is not None:
            scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
            y = torch.addcmul(shift, y, 1.0 + scale)
        return leaky_relu(y, SLOPE) if self.activation else y


class SPADEResBlock(nn.Module):
    """skip(x) + two times [SPADE with leaky ReLU, 3×3 convolution]; the skip is learned where ci ≠ co.

    Args:
        inputs, outputs: ci and co; the middle has min(ci, co) channels.
        resolution: side of the maps that the block works on.
        hidden, norm, embedding: of its SPADE layers.
        spectral: spectral norm on the main path and the skip; False for a network with baked weights.
        bias: of the block's output. Only the last block needs one: all that reads the output of another
            block begins by subtracting the channel's mean, so its bias could never learn.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        resolution: int,
        hidden: int,
        norm: str,
        embedding: int,
        spectral: bool,
        bias: bool,
    ):
        super().__init__()
        middle = min(inputs, outputs)
        self.resolution = resolution
        self.spade_1 = SPADE(inputs, hidden, norm, embedding, activation=True)
        # No bias, for the same reason: the norm of spade_2 would subtract it again.
        self.conv_1 = convolution(inputs, middle, 3, padding=1, bias=False, spectral=spectral)
        self.spade_2 = SPADE(middle, hidden, norm, embedding, activation=True)
        self.conv_2 = convolution(middle, outputs, 3, padding=1, bias=bias, spectral=spectral)
        self.learned_skip = inputs != outputs
        if self.learned_skip:
            self.spade_skip = SPADE(inputs, hidden, norm, embedding)
            self.conv_skip = convolution(inputs, outputs, 1, padding=0, bias=False, spectral=spectral)

    @property
    def spades(self) -> list[SPADE]:
        """Its SPADE layers in the order in which forward() takes their modulations."""
        return [self.spade_1, self.spade_2] + ([self.spade_skip] if self.learned_skip else [])

    def forward(self, x: Tensor, modulations: Iterator[Modulation], embedding: Tensor | None = None) -> Tensor:
        """x: B×ci×H×W; takes one item of `modulations` per SPADE layer. Returns B×co×H×W."""
        d = self.conv_1(self.spade_1(x, next(modulations), embedding))
        d = self.conv_2(self.spade_2(d, next(modulations), embedding))
        if self.learned_skip:
            x = self.conv_skip(self.spade_skip(x, next(modulations), embedding))
        return x + d
