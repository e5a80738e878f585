"""Our parser's network: the MobileNetV2-UNet of the paper, in a light form.

The encoder is MobileNetV2 (Sandler et al. 2018, table 2) without its last 1×1 convolution, in torchvision's
layout so that its ImageNet weights load strictly. The decoder climbs from 1/32 to 1/2 of the input as a U-Net
(Ronneberger et al. 2015), each step a separable convolution over the upsampled features and the encoder's of that
size. Its four logits are for background, skin, hair (softmax) and glasses (sigmoid): glasses lie on the skin.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capricious.model.mobilenet_v2 import MobileNetV2, conv

LOGITS = ("background", "skin", "hair", "glasses")


class Up(nn.Module):
    """One step of the decoder: doubles the side and merges the encoder's features of that size."""

    def __init__(self, inputs: int, skip: int, outputs: int):
        super().__init__()
        self.merge = nn.Sequential(
            conv(inputs + skip, inputs + skip, groups=inputs + skip),
            conv(inputs + skip, outputs, 1),
            conv(outputs, outputs, groups=outputs),
            conv(outputs, outputs, 1),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.merge(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))


class ParsingUNet(nn.Module):
    """B×3×S×S image, ImageNet-normalised, S a multiple of 32 → B×4×S/2×S/2 LOGITS.

    Half the side is enough: a boundary is placed by interpolating the logits, finer than their grid.
    """

    WIDTHS = (128, 96, 64, 48, 32)
    """Channels of the decoder at 1/32, 1/16, 1/8, 1/4 and 1/2."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MobileNetV2()
        skips = MobileNetV2.CHANNELS[::-1]
        self.bottom = conv(skips[0], self.WIDTHS[0], 1)
        self.ups = nn.ModuleList(
            Up(inputs, skip, outputs)
            for inputs, skip, outputs in zip(self.WIDTHS, skips[1:], self.WIDTHS[1:], strict=False)
        )
        self.head = nn.Conv2d(self.WIDTHS[-1], len(LOGITS), 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = self.encoder(image)
        x = self.bottom(x)
        for up, skip in zip(self.ups, skips[::-1], strict=True):
            x = up(x, skip)
        return self.head(x)
