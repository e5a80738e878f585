"""The refinement network: what becomes of a change when it is put back into the portrait it was made from.

The generator knows a sitter by label map and style code. It can draw lines, but not take away those that only the
portrait shows, nor grey the very hairs in it. The plain difference of two renders leaves them, and a third of the
requested age with them. This small U-Net sees portrait and renders together and completes the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu

from capricious.faces.label_map import CLASSES
from capricious.model.checks import check_positive
from capricious.model.conditioning import AttributeEmbedding
from capricious.model.layers import SLOPE, check_label_map, one_hot
from capricious.model.put_back import put_back

LEVELS = 3
"""How often the side is halved on the way down."""
EMBEDDING = 64


@dataclass(frozen=True)
class RefinementConfig:
    """Shape of the refinement network.

    Attributes:
        resolution: R, side of the picture; a multiple of 2^LEVELS.
        width: channels at the full resolution; they double at each halving.
    """

    resolution: int = 128
    width: int = 24

    def __post_init__(self) -> None:
        check_positive(self, "resolution", "width")


class Refinement(nn.Module):
    """Portrait, label map and two renders → the portrait with the change of the renders put back.

    A picture is delivered as portrait + mask · (swapped − reconstruction + learned), where::

        learned = U-Net(portrait, map, reconstruction, swapped, requested)
                − U-Net(portrait, map, reconstruction, reconstruction, own)

    So a sitter who is asked to stay as he is comes back unchanged, by construction and not because it was learnt. The
    second term is the same for a whole sweep. The last layer starts at 0: training begins at the plain difference.
    """

    def __init__(self, config: RefinementConfig):
        super().__init__()
        self.config = config
        widths = [config.width << level for level in range(LEVELS + 1)]
        self.embedding = AttributeEmbedding(EMBEDDING)
        # torch's own initialisation, as nothing normalises here: with SPADE's gain of 0.02 no signal would arrive.
        # Two halves of one layer, as the first half's answer is the same for a whole sweep.
        self.sitter = nn.Conv2d(3 + len(CLASSES) + 3, widths[0], 3, padding=1)
        self.render = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.down_blocks = nn.ModuleList(_Block(b) for b in widths[1:])
        self.up = nn.ModuleList(EnlargingConvolution(b, a, 3, padding=1) for a, b in pairwise(widths))
        self.up_blocks = nn.ModuleList(_Block(a) for a in widths[:-1])
        self.change = nn.Conv2d(widths[0], 3, 3, padding=1)
        for parameter in self.change.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        portrait: Tensor,
        label_map: Tensor,
        reconstruction: Tensor,
        swapped: Tensor,
        own: Tensor,
        requested: Tensor,
    ) -> Tensor:
        """Returns the pictures to deliver, B×3×R×R in −1…1.

        Args:
            portrait: B×3×R×R in −1…1.
            label_map: B×R×R class indices.
            reconstruction, swapped: B×3×R×R in −1…1, rendered with `own` and with `requested`.
            own, requested: B×VECTOR_SIZE attribute vectors.
        """
        seen = self.seen(portrait, label_map, reconstruction)
        learned = self.answer(seen, swapped, requested) - self.answer(seen, reconstruction, own)
        return put_back(portrait, label_map, swapped - reconstruction + learned)

    def seen(self, portrait: Tensor, label_map: Tensor, reconstruction: Tensor) -> Tensor:
        """Returns what the network makes of a sitter whatever is requested: B×width×R×R."""
        check_label_map(label_map, self.config.resolution)
        dtype = portrait.dtype
        known: Tensor = self.sitter(torch.cat([portrait, one_hot(label_map, dtype), reconstruction.to(dtype)], 1))
        return known

    def answer(self, seen: Tensor, render: Tensor, attributes: Tensor) -> Tensor:
        """Returns the U-Net's raw answer, B×3×R×R, to a render with these attributes."""
        embedding = self.embedding(attributes)
        x = seen + self.render(render.to(self.render.weight.dtype))
        kept = []
        for down, block in zip(self.down, self.down_blocks, strict=True):
            kept.append(x)
            x = block(down(leaky_relu(x, SLOPE)), embedding)
        for up, block in zip(reversed(self.up), reversed(self.up_blocks), strict=True):
            x = block(up(leaky_relu(x, SLOPE)) + kept.pop(), embedding)
        return self.change(leaky_relu(x, SLOPE))


class EnlargingConvolution(nn.Conv2d):
    """A 3×3 convolution of its input enlarged twofold by nearest neighbour, at 4/9 of the cost.

    Each of the four pixels that one becomes sees but 2×2 pixels of the input, some of them through several weights,
    which are added beforehand.
    """

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×O×2H×2W."""
        first, second, third = self.weight.unbind(2)
        rows = (torch.stack([first, second + third], 2), torch.stack([first + second, third], 2))
        kernels = []
        for kernel in rows:
            first, second, third = kernel.unbind(3)
            kernels += [torch.stack([first, second + third], 3), torch.stack([first + second, third], 3)]
        # Output pixel 2i sees input pixels i − 1 and i, and 2i + 1 sees i and i + 1: one place further.
        y = conv2d(x, torch.cat(kernels), padding=1).unflatten(1, (2, 2, -1))
        height, width = x.shape[-2:]
        out = y.new_empty(len(x), 2 * height, 2 * width, y.shape[3]).permute(0, 3, 1, 2)  # channels last
        for a in (0, 1):
            for b in (0, 1):
                out[..., a::2, b::2] = y[:, a, b, :, a : a + height, b : b + width]
        return out if self.bias is None else out + self.bias[:, None, None]


class _Block(nn.Module):
    """Two convolutions beside an identity, with a scale and a shift of each channel by the attributes in between."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.affine = nn.Linear(EMBEDDING, 2 * channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, 1)
        d = self.conv_1(leaky_relu(x, SLOPE)) * (1.0 + scale) + shift
        return x + self.conv_2(leaky_relu(d, SLOPE))
