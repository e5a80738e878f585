"""MobileNetV2 (Sandler et al. 2018) in torchvision's layout, so that its ImageNet weights load strictly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capricious import weights
from capricious.errors import CapriciousError
from capricious.model.imagenet import MOBILENET_V2_STAGES, MOBILENET_V2_TAPS


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, depthwise convolution, project without activation (paper, figure 3b)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        wide = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([conv(inputs, wide, 1)] if expansion > 1 else []),
            conv(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """The network without its last 1×1 convolution and classifier.

    B×3×S×S, ImageNet-normalised → features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the side.
    """

    CHANNELS = (16, 24, 32, 96, 320)

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [conv(3, 32, stride=2)]
        channels = 32
        for expansion, outputs, repeats, stride in MOBILENET_V2_STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expansion, stride if repeat == 0 else 1))
                channels = outputs
        self.features = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        taps = []
        x = image
        for number, block in enumerate(self.features):
            x = block(x)
            if number in MOBILENET_V2_TAPS:
                taps.append(x)
        return taps


class FeatureNetwork(nn.Module):
    """All of the network but its classifier: B×3×S×S, ImageNet-normalised → B×1280."""

    DIMENSIONS = 1280

    def __init__(self) -> None:
        super().__init__()
        self.trunk = MobileNetV2()
        self.last = conv(MobileNetV2.CHANNELS[-1], self.DIMENSIONS, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.trunk(image)[-1]).mean((2, 3))


def load_feature_network() -> FeatureNetwork:
    """Returns it with torchvision's weights, frozen, in eval mode.

    Raises:
        CapriciousError: they cannot be had (see `weights.fetch`) or are not those of this network.
    """
    path = weights.fetch("mobilenetv2")
    network = FeatureNetwork()
    last = f"features.{len(network.trunk.features)}."
    state = {}
    for name, value in torch.load(path, map_location="cpu", weights_only=True).items():
        if not name.startswith("classifier."):
            ours = f"last.{name.removeprefix(last)}" if name.startswith(last) else f"trunk.{name}"
            state[ours] = value
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CapriciousError(f"{path} is not torchvision's MobileNetV2: {error}") from None
    return network.eval().requires_grad_(False)
