"""The networks that are trained: made, warm-started, and how generator and encoder run as one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from capricious.errors import CapriciousError
from capricious.model.discriminator import Discriminator
from capricious.model.encoder import StyleEncoder
from capricious.model.generator import Generator
from capricious.training import checkpoint
from capricious.training.config import TrainingConfig

log = logging.getLogger(__name__)


class Renders(NamedTuple):
    """What one pass of the autoencoder yields; the swapped half is None in a step without swap.

    image, swapped: B×3×R×R in −1…1. latent, mean, log_variance, swapped_mean: B×latent.
    """

    image: Tensor
    latent: Tensor
    mean: Tensor
    log_variance: Tensor
    swapped: Tensor | None = None
    swapped_mean: Tensor | None = None


class Autoencoder(nn.Module):
    """Style encoder and generator as one module: one forward and one gradient exchange a step."""

    def __init__(self, generator: Generator, encoder: StyleEncoder):
        super().__init__()
        self.generator: Generator = generator
        self.encoder: StyleEncoder = encoder

    def forward(
        self, image: Tensor, label_map: Tensor, attributes: Tensor, noise: Tensor, requested: Tensor | None = None
    ) -> Renders:
        """Reconstructs B portraits, and renders them with the requested attributes (B×19) if given.

        Both pictures of a sitter share the style code z = μ + εσ (ε = `noise`) and the label map, hence
        the modulations too, more than half of the generator's work: the swap costs far less than a
        second pass.
        """
        mean, log_variance = self.encoder(image)
        latent = mean.float() + noise * torch.exp(0.5 * log_variance.float())
        if requested is None:
            return Renders(self.generator(label_map, latent, attributes), latent, mean, log_variance)
        modulations = self.generator.modulations(label_map)
        reconstruction = self.generator.synthesize(modulations, latent, attributes)
        swapped = self.generator.synthesize(modulations, latent, requested)
        return Renders(reconstruction, latent, mean, log_variance, swapped, self.encoder(swapped)[0])


def new_networks(config: TrainingConfig) -> tuple[Autoencoder, Discriminator]:
    """Makes the networks, the same ones for the same seed in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        autoencoder = Autoencoder(Generator(config.generator), StyleEncoder(config.encoder))
        return autoencoder, Discriminator(config.discriminator)


def warm_start(folder: Path, autoencoder: Autoencoder, discriminator: Discriminator) -> None:
    """Loads weights that another run left in its `weights` folder; a discriminator may be missing.

    Raises:
        CapriciousError: the folder lacks the generator or the encoder, or they have another shape.
    """
    networks = {"generator": autoencoder.generator, "encoder": autoencoder.encoder, "discriminator": discriminator}
    for name, network in networks.items():
        path = folder / f"{name}.safetensors"
        if path.is_file():
            checkpoint.load_module(network, path)
        elif name == "discriminator":
            log.warning("%s is missing: the discriminator starts anew, and the first pictures may get worse", path)
        else:
            raise CapriciousError(f"training.warm_start: {path} is missing; give the weights folder of another run")
