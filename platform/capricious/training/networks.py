"""The networks that are trained: made, and how generator and encoder run as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from capricious.model.adversary import AttributeAdversary
from capricious.model.discriminator import Discriminator
from capricious.model.encoder import StyleEncoder
from capricious.model.generator import Generator
from capricious.model.patches import AUTO_SHARE
from capricious.model.put_back import exaggerate, put_back
from capricious.model.refinement import Refinement, RefinementConfig
from capricious.training.config import TrainingConfig


class Renders(NamedTuple):
    """What one pass of the autoencoder yields; the swapped half is None in a step without swap.

    image, swapped: B×3×R×R in −1…1, the second as it is judged: put back into the portrait, if so configured. latent,
    mean, log_variance: B×latent. swapped_mean: B×latent, the style code of the swapped render itself, where the encoder
    learns. guess: what the adversary, if there is one, reads from the style code (model/adversary.py).
    """

    image: Tensor
    latent: Tensor
    mean: Tensor
    log_variance: Tensor
    swapped: Tensor | None = None
    swapped_mean: Tensor | None = None
    guess: Tensor | None = None

    def where(self, inside: Tensor) -> Renders:
        """Returns the same with the pictures blank (0) outside of `inside`, B×1×R×R bool."""
        swapped = None if self.swapped is None else self.swapped * inside
        return self._replace(image=self.image * inside, swapped=swapped)


class Autoencoder(nn.Module):
    """All that learns on the generator's side, as one module: one forward and one gradient exchange a step.

    Args:
        refinement: puts the swapped render back into the portrait.
        put_back: without a refinement network, add the plain difference.
        strength: see SwapConfig; None for a change that is judged as it is.
        frozen: leave generator and encoder as they are, made without spectral norms; only the swapped picture then has
            a gradient.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: StyleEncoder,
        adversary: AttributeAdversary | None = None,
        refinement: Refinement | None = None,
        put_back: bool = False,
        strength: float | None = None,
        frozen: bool = False,
    ):
        super().__init__()
        self.generator: Generator = generator
        self.encoder: StyleEncoder = encoder
        self.adversary: AttributeAdversary | None = adversary
        self.refinement: Refinement | None = refinement
        self.put_back, self.strength, self.frozen = put_back, strength, frozen
        if frozen:
            self.generator.requires_grad_(False)
            self.encoder.requires_grad_(False)
            self.train()

    def train(self, mode: bool = True) -> Self:
        """As of any module, but what is frozen stays as in use: batch norm with the statistics that it has."""
        super().train(mode)
        if self.frozen:
            self.generator.eval()
            self.encoder.eval()
        return self

    def forward(
        self, image: Tensor, label_map: Tensor, attributes: Tensor, noise: Tensor, requested: Tensor | None = None
    ) -> Renders:
        """Reconstructs B portraits, and renders them with the requested attributes (B×19) if given.

        Both pictures of a sitter share the style code z = μ + εσ (ε = `noise`) and the label map, hence
        the modulations too, more than half of the generator's work: the swap costs far less than a
        second pass.
        """
        # Both passes share the weights that spectral norm makes, and its power iteration.
        with parametrize.cached():
            mean, log_variance = self.encoder(image)
            latent = mean.float()
            if not self.frozen:
                latent = latent + noise * torch.exp(0.5 * log_variance.float())
            guess = None if self.adversary is None else self.adversary(latent)
            if requested is None:
                reconstruction = self.generator(label_map, latent, attributes)
                return Renders(reconstruction, latent, mean, log_variance, guess=guess)
            modulations = self.generator.modulations(label_map)
            reconstruction = self.generator.synthesize(modulations, latent, attributes)
            swapped = self.generator.synthesize(modulations, latent, requested)
            swapped_mean = None if self.frozen else self.encoder(swapped)[0]
        delivered = self._delivered(image, label_map, reconstruction, swapped, attributes, requested)
        return Renders(reconstruction, latent, mean, log_variance, delivered, swapped_mean, guess)

    @torch.no_grad()
    def render(self, image: Tensor, label_map: Tensor, own: Tensor, requested: Tensor) -> Tensor:
        """Returns one sitter with each of N×19 requested attributes, N×3×R×R, as in use: from the style code μ.

        What is put back in training is put back here, too.

        Args:
            image: 1×3×R×R in −1…1.
            label_map: 1×R×R.
            own: 1×19.
        """
        count = len(requested)
        mean = self.encoder(image)[0].float()
        modulations = self.generator.modulations(label_map)
        reconstruction = self.generator.synthesize(modulations, mean, own).expand(count, -1, -1, -1)
        renders = self.generator.synthesize(modulations, mean.expand(count, -1), requested)
        image, label_map = image.expand(count, -1, -1, -1), label_map.expand(count, -1, -1)
        return self._delivered(image, label_map, reconstruction, renders, own.expand(count, -1), requested)

    def _delivered(
        self, image: Tensor, label_map: Tensor, reconstruction: Tensor, swapped: Tensor, own: Tensor, requested: Tensor
    ) -> Tensor:
        if self.refinement is not None:
            swapped = self.refinement(image, label_map, reconstruction, swapped, own, requested)
        elif self.put_back:
            swapped = put_back(image, label_map, swapped - reconstruction)
        return swapped if self.strength is None else exaggerate(image, label_map, swapped, self.strength)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While it is open, weights are drawn from `seed`; afterwards PyTorch draws on as if nothing had been."""
    with torch.random.fork_rng(devices=[]):  # of the CPU alone, where networks are made
        torch.default_generator.manual_seed(seed)
        yield


def new_networks(config: TrainingConfig) -> tuple[Autoencoder, Discriminator]:
    """Makes the networks, the same ones for the same seed in every process."""
    with seeded(config.seed):
        learns = config.learns == "all"
        generator, encoder = Generator(config.generator, spectral=learns), StyleEncoder(config.encoder, spectral=learns)
        generator.distinct_share = _distinct_share(config)
        discriminator = Discriminator(config.discriminator)
        adversary = AttributeAdversary(config.network.latent) if config.loss.adversary else None
        width = config.network.refinement_width
        refinement = Refinement(RefinementConfig(config.resolution, width)) if width else None
        autoencoder = Autoencoder(
            generator,
            encoder,
            adversary,
            refinement,
            config.swap.put_back,
            config.swap.strength,
            frozen=not learns,
        )
        return autoencoder, discriminator


def _distinct_share(config: TrainingConfig) -> float:
    if config.distinct_share != "auto":
        return config.distinct_share
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return 0.0 if cuda or config.compile else AUTO_SHARE
