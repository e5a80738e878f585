"""The multi-scale patch discriminator (pix2pixHD, arXiv:1711.11585, §3.2, with SPADE's spectral norm)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from capricious.errors import ConfigError
from capricious.faces.attributes import VECTOR_SIZE
from capricious.faces.label_map import CLASSES
from capricious.model.checks import check_positive
from capricious.model.conditioning import AttributeEmbedding
from capricious.model.layers import SLOPE, NormActivation, check_label_map, convolution, linear, one_hot

Features = list[list[Tensor]]
"""For each scale, largest first: the outputs of each layer, the last of them the logits B×1×h×w."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminator.

    Attributes:
        width: channels of the first layer; they double up to 8 · width.
        scales: number of discriminators; each sees the picture at half the side of the one before.
        projection: also judge whether picture and attributes fit (Miyato & Koyama 2018).
        attributes: size of the attribute vector.
    """

    width: int = 64
    scales: int = 2
    projection: bool = False
    attributes: int = VECTOR_SIZE

    def __post_init__(self) -> None:
        check_positive(self, "width", "scales", "attributes")
        if self.projection and self.attributes != VECTOR_SIZE:
            raise ConfigError(
                f"DiscriminatorConfig.attributes must be {VECTOR_SIZE} with projection, found: {self.attributes}"
            )


class PatchDiscriminator(nn.Module):
    """Five 4×4 convolutions (strides 2 2 2 1 1); one logit for each patch of 70 × 70 pixels."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        width = config.width
        # Padding 2, as a 4×4 kernel has no centre: every patch at the border is judged, too.
        first = convolution(len(CLASSES) + 3, width, 4, stride=2, padding=2)
        self.layers = nn.ModuleList([nn.Sequential(first, nn.LeakyReLU(SLOPE))])
        for inputs, outputs, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            # No bias: the instance norm would subtract it again.
            conv = convolution(inputs * width, outputs * width, 4, stride=stride, padding=2, bias=False, spectral=True)
            self.layers.append(nn.Sequential(conv, NormActivation()))
        self.logits = convolution(8 * width, 1, 4, padding=2)
        self.embedding: nn.Module | None = None
        if config.projection:
            self.embedding = nn.Sequential(AttributeEmbedding(128), linear(128, 8 * width, spectral=True))

    def forward(self, x: Tensor, attributes: Tensor | None) -> list[Tensor]:
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        logits = self.logits(x)
        if self.embedding is not None:
            # ⟨V·a, φ(x)⟩ of equation 3 for each patch. φ lies one pixel denser than the logits (4×4,
            # padding 2), hence the mean over each 2×2 of it, with the same padding.
            projected = (self.embedding(attributes)[:, :, None, None] * x).sum(1, keepdim=True)
            logits = logits + avg_pool2d(projected, 2, stride=1, padding=1, count_include_pad=False)
        return [*features, logits]


class Discriminator(nn.Module):
    """Judges [one-hot label map ⊕ picture] at several scales."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(PatchDiscriminator(config) for _ in range(config.scales))

    def forward(self, label_map: Tensor, image: Tensor, attributes: Tensor | None = None) -> Features:
        """Returns the features and logits of every scale.

        Pass real and fake pictures in one batch: they then share one power iteration of the spectral norm.

        Args:
            label_map: B×R×R class indices.
            image: B×3×R×R in −1…1.
            attributes: B×attributes, needed with `projection` and ignored without.

        Raises:
            ValueError: shapes that do not fit, or no attributes for a projection discriminator.
        """
        check_label_map(label_map, image.shape[-1])
        if self.config.projection and attributes is None:
            raise ValueError("a discriminator with projection=True needs attributes, found: None")
        x = torch.cat([one_hot(label_map, image.dtype), image], 1)
        outputs = []
        for i, scale in enumerate(self.scales):
            if i:
                x = avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            outputs.append(scale(x, attributes))
        return outputs
