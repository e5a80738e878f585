"""The generator: latent ⊕ attributes → 8×8 seed → SPADE residual blocks with ×2 upsampling → picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, relu

from capricious.errors import ConfigError
from capricious.faces.attributes import VECTOR_SIZE
from capricious.model.checks import check_choice, check_positive
from capricious.model.conditioning import AttributeEmbedding
from capricious.model.layers import SLOPE, check_label_map, convolution, linear, one_hot, shrink_labels
from capricious.model.patches import distinct_patches
from capricious.model.spade import SPADE, Modulation, SPADEResBlock, dtype_of

RESOLUTIONS = (64, 128, 256, 512, 1024)
CONDITIONINGS = ("layered", "concat")
NORMS = ("batch", "instance")
SEED = 8
"""Side of the map that the fully connected layers make; the smallest resolution of the network."""
SEED_HIDDEN = 128

Modulations = list[Modulation]
"""γ and β of every SPADE layer, in the order of `Generator.spades`: all that depends on the label map."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Shape of the generator.

    Attributes:
        resolution: R, side of the picture, one of RESOLUTIONS.
        width: nf, channels at the full resolution; the paper's 64 gives 90.7 M parameters at R = 128.
        hidden: channels between label map and γ, β in each SPADE layer.
        latent: size of the style code.
        attributes: size of the attribute vector.
        conditioning: "concat" feeds the attributes to the first layer only (the paper); "layered" also
            to an affine after every SPADE layer (docs/model.md).
        norm: parameter-free norm inside SPADE, "batch" or "instance".
    """

    resolution: int = 128
    width: int = 64
    hidden: int = 128
    latent: int = 128
    attributes: int = VECTOR_SIZE
    conditioning: str = "layered"
    norm: str = "batch"

    def __post_init__(self) -> None:
        check_choice(self, "resolution", RESOLUTIONS)
        check_choice(self, "conditioning", CONDITIONINGS)
        check_choice(self, "norm", NORMS)
        check_positive(self, "width", "hidden", "latent", "attributes")
        if self.conditioning == "layered" and self.attributes != VECTOR_SIZE:
            raise ConfigError(
                f"GeneratorConfig.attributes must be {VECTOR_SIZE} with conditioning layered (it reads the "
                f"age by its place in the vector), found: {self.attributes}"
            )

    def blocks(self) -> list[tuple[int, int, int]]:
        """Returns (input channels, output channels, resolution) of each residual block."""
        top = 16 * self.width
        blocks = [(top, top, SEED), (top, top, 2 * SEED), (top, top, 2 * SEED)]
        resolution = 2 * SEED
        while resolution < self.resolution:
            resolution *= 2
            blocks.append((blocks[-1][1], min(16, self.resolution // resolution) * self.width, resolution))
        return blocks


class Generator(nn.Module):
    """The SPADE generator.

    A picture is made in two halves. `modulations` is the part that depends on the label map alone, about
    60 % of the arithmetic; `synthesize` is the rest. A sweep runs the first half once for all its variants.

    Args:
        config: its shape.
        spectral: spectral norm on the residual blocks, as in training. False builds the same network of
            plain convolutions, for weights into which `layers.plain_state` has worked the norm.

    Attributes:
        distinct_share: modulations are computed once per distinct patch of the label maps at every
            resolution where `Patches.share` is at most this: 0 never, 1 always, `patches.AUTO_SHARE` where
            it is faster on a CPU. The result is the same up to rounding (2e-6).
    """

    distinct_share: float = 0.0

    def __init__(self, config: GeneratorConfig, spectral: bool = True):
        super().__init__()
        self.config = config
        embedding = config.hidden if config.conditioning == "layered" else 0
        self.embedding = AttributeEmbedding(embedding) if embedding else None
        self.seed_1 = linear(config.latent + config.attributes, SEED_HIDDEN)
        self.seed_2 = linear(SEED_HIDDEN, 16 * config.width * SEED * SEED)
        blocks = nn.ModuleList(
            SPADEResBlock(
                inputs,
                outputs,
                resolution,
                config.hidden,
                config.norm,
                embedding,
                spectral,
                bias=resolution == config.resolution,
            )
            for inputs, outputs, resolution in config.blocks()
        )
        self.blocks = cast(Sequence[SPADEResBlock], blocks)
        self.picture = convolution(config.width, 3, 3, padding=1)

    @property
    def spades(self) -> list[SPADE]:
        """All SPADE layers, in the order in which `synthesize` takes their modulations."""
        return [spade for block in self.blocks for spade in block.spades]

    def modulations(self, label_map: Tensor) -> Modulations:
        """Returns γ and β of every SPADE layer for a B×R×R label map of class indices.

        With B = 1 they fit any batch of latents.

        Raises:
            ValueError: the label map is not B×R×R integers.
        """
        return list(self._modulate(label_map))

    def synthesize(self, modulations: Iterable[Modulation], latent: Tensor, attributes: Tensor) -> Tensor:
        """Returns the pictures B×3×R×R in −1…1.

        Args:
            modulations: from `modulations`, of the same batch size or of batch size 1.
            latent: B×latent float.
            attributes: B×attributes float, vectors as in `faces.attributes`.
        """
        embedding = None if self.embedding is None else self.embedding(attributes)
        x = self.seed_2(relu(self.seed_1(torch.cat([latent, attributes], 1))))
        x = x.view(len(x), -1, SEED, SEED)
        modulation = iter(modulations)
        for block in self.blocks:
            if block.resolution != x.shape[-1]:
                x = interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(x, modulation, embedding)
        return torch.tanh(self.picture(leaky_relu(x, SLOPE)))

    def forward(self, label_map: Tensor, latent: Tensor, attributes: Tensor) -> Tensor:
        """Equals synthesize(modulations(label_map), …), but holds the modulation of one layer at a time."""
        return self.synthesize(self._modulate(label_map), latent, attributes)

    def _modulate(self, label_map: Tensor) -> Iterator[Modulation]:
        check_label_map(label_map, self.config.resolution)
        for resolution, blocks in groupby(self.blocks, lambda block: block.resolution):
            labels = shrink_labels(label_map, resolution)
            spades = (spade for block in blocks for spade in block.spades)
            patches = distinct_patches(labels) if self.distinct_share > 0 else None
            if patches is not None and patches.share <= self.distinct_share:
                yield from (spade.modulate_distinct(patches) for spade in spades)
            else:
                maps = one_hot(labels, dtype_of(self))
                yield from (spade.modulate(maps) for spade in spades)
