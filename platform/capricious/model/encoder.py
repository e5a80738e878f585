"""The style encoder: picture → distribution of the latent (SPADE, appendix A, figure 14)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capricious.model.checks import check_choice, check_positive
from capricious.model.generator import RESOLUTIONS
from capricious.model.layers import NormActivation, convolution, linear

LAST = 4
"""Side of the last feature map, at every resolution."""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the style encoder.

    Attributes:
        resolution: R, side of the picture.
        width: channels of the first layer; they double up to 8 · width.
        latent: size of the style code.
    """

    resolution: int = 128
    width: int = 64
    latent: int = 128

    def __post_init__(self) -> None:
        check_choice(self, "resolution", RESOLUTIONS)
        check_positive(self, "width", "latent")

    def channels(self) -> list[int]:
        """Returns the output channels of each stride-2 layer; one layer more per doubling of R."""
        layers = (self.resolution // LAST).bit_length() - 1
        return [self.width * min(2**i, 8) for i in range(layers)]


class StyleEncoder(nn.Module):
    """log₂(R/4) × [conv3×3 stride 2, instance norm, leaky ReLU] → μ and log σ².

    Args:
        config: its shape.
        spectral: as in `Generator`.
    """

    def __init__(self, config: EncoderConfig, spectral: bool = True):
        super().__init__()
        self.config = config
        layers: dict[str, nn.Module] = {}
        inputs = 3
        for i, outputs in enumerate(config.channels()):
            # No bias: the instance norm would subtract it again.
            conv = convolution(inputs, outputs, 3, stride=2, padding=1, bias=False, spectral=spectral)
            # Bundles have these names, of a time when norm and activation were two layers.
            layers |= {f"{3 * i}": conv, f"{3 * i + 1}": NormActivation()}
            inputs = outputs
        self.layers = nn.Sequential(OrderedDict(layers))
        self.mean = linear(inputs * LAST * LAST, config.latent)
        self.log_variance = linear(inputs * LAST * LAST, config.latent)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (mean, log_variance), each B×latent, of B×3×R×R pictures in −1…1.

        Raises:
            ValueError: the pictures have another resolution.
        """
        side = self.config.resolution
        if image.shape[1:] != (3, side, side):
            raise ValueError(f"image must be B×3×{side}×{side}, found: {'×'.join(map(str, image.shape))}")
        features = self.layers(image).flatten(1)
        return self.mean(features), self.log_variance(features)


def sample(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws z = μ + εσ (Kingma & Welling 2014, §2.4). For training only: a sweep uses μ.

    Args:
        generator: source of ε, on the device of `mean`; None for torch's global one.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + noise * torch.exp(0.5 * log_variance)
