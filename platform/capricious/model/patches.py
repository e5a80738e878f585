"""γ and β once for every distinct patch of the label map, instead of once for every pixel.

Two 3×3 convolutions lie between labels and modulation, so γ and β at a pixel are a function of the 5×5 labels
around it; and label maps repeat themselves: inside a region, along a straight edge, at the corners of boxes, in
all maps of a batch. Of the 65,536 pixels of four maps at 128 px, about 1 % have a 3×3 neighbourhood of their own,
and 4 % a 5×5 one. The rest of the work is to copy rows to where they belong.

A 3×3 convolution is the sum of nine matrix products, one for each tap, and each of them is a function of the one
row that the tap reads: `PatchConvolution` multiplies every distinct row with every tap, and adds up nine products
for every distinct patch. Zero padding is a label of its own, K, "outside the picture": all zeros as a one-hot row,
and all zeros again as a hidden row, since the second convolution pads as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, linear, pad

from capricious.faces.label_map import CLASSES

K = len(CLASSES)
OUTSIDE = K
"""The label of everything beyond the border of the picture."""

AUTO_SHARE = 0.4
"""`Patches.share` up to which patches are worth it on a CPU: twice as fast as convolutions at 0.35, but by a fifth only
at 0.65 (benchmarks/results/train_step.md)."""


@dataclass(frozen=True)
class Patches:
    """The distinct patches of B label maps of one resolution. All indices are int64.

    Attributes:
        small: M×9, the labels in each distinct 3×3 patch, row by row; OUTSIDE beyond the border.
        large: L×9, the 3×3 patches, by their row in `small`, that make up each distinct 5×5 patch.
        pixels: B×R×R, the 5×5 patch around each pixel, by its row in `large`.
    """

    small: Tensor
    large: Tensor
    pixels: Tensor

    @property
    def share(self) -> float:
        """Distinct 3×3 patches per pixel: the share of the convolutions' arithmetic that is left to do."""
        return len(self.small) / self.pixels.numel()


def distinct_patches(label_map: Tensor) -> Patches:
    """Finds the distinct patches of B×R×R class indices. (On a GPU this waits: their number is not known before.)"""
    labels = pad(label_map.long(), (2, 2, 2, 2), value=OUTSIDE)
    side = labels.shape[-1] - 2
    # Nine labels as the digits of one number, for the patches around all pixels and the ring around the picture.
    codes = torch.zeros_like(labels[:, 2:, 2:])
    for y in range(3):
        for x in range(3):
            codes = codes * (K + 1) + labels[:, y : y + side, x : x + side]
    # Around a pixel outside the hidden row is 0 whatever the labels: one patch for all of them.
    codes[labels[:, 1:-1, 1:-1] == OUTSIDE] = (K + 1) ** 9 - 1
    codes, ids = torch.unique(codes, return_inverse=True)
    digits = (K + 1) ** torch.arange(8, -1, -1, device=codes.device)
    small = codes[:, None] // digits % (K + 1)

    # The four 3×3 patches at its corners cover a 5×5 patch. Numbers of pairs, then of pairs of pairs, fit into 64 bits.
    pairs, pair = torch.unique(ids[:, :, :-2] * len(small) + ids[:, :, 2:], return_inverse=True)
    keys, pixels = torch.unique(pair[:, :-2] * len(pairs) + pair[:, 2:], return_inverse=True)
    nine = torch.stack([ids[:, y : y + side - 2, x : x + side - 2] for y in range(3) for x in range(3)], -1)
    somewhere = torch.empty_like(keys)
    # Several pixels write to the same place; whichever stays, its nine neighbours are the same.
    somewhere[pixels.flatten()] = torch.arange(pixels.numel(), device=keys.device)
    return Patches(small, nine.view(-1, 9)[somewhere], pixels)


class PatchConvolution(nn.Conv2d):
    """A 3×3 convolution with zero padding that can work on distinct patches, too.

    It is one module for both, so that what hooks into its forward (ZeRO-3 gathers the weights there) always sees it.
    """

    bias: Tensor

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding=1)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, patches: Tensor | None = None) -> Tensor:
        """Convolves B×inputs×H×W; or, with P×9 `patches`, combines rows.

        Args:
            x: the maps; or N×inputs, the distinct rows that a tap can read.
            patches: for each patch the row of `x` under each tap.

        Returns:
            B×outputs×H×W; or P×outputs.
        """
        if patches is None:
            return super().forward(x)
        taps = self.weight.permute(2, 3, 0, 1).reshape(9 * self.out_channels, self.in_channels)
        products = linear(x, taps).view(-1, self.out_channels)  # row 9·n + t is x[n] under tap t
        places = patches * 9 + torch.arange(9, device=patches.device)
        return embedding_bag(places, products, mode="sum") + self.bias.to(products.dtype)
