"""One step of the game between generator (with its encoder) and discriminator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, l1_loss

from capricious.model import losses
from capricious.model.discriminator import Features
from capricious.training import augment
from capricious.training.augment import AGE, AGE_KNOWN, GENDER, GENDER_KNOWN, Draws
from capricious.training.batches import Batch
from capricious.training.config import TrainingConfig
from capricious.training.networks import Renders
from capricious.training.strategy import Player


class GanStep:
    """Hinge GAN with feature matching, perceptual and KL loss (SPADE §3), and the swap pass (docs/model.md).

    The generator runs once: the discriminator learns from its detached pictures first, then judges them
    for the generator, frozen. Every loss is computed in float32, whatever the networks run in.

    Args:
        autoencoder, discriminator: the two players, as prepared by a strategy.
        perceptual: frozen; (fake, real) → scalar. None where its weight is 0.
        estimator: frozen; image → (age in years, p_male). None where the swap is off.
    """

    def __init__(
        self,
        config: TrainingConfig,
        autoencoder: Player,
        discriminator: Player,
        perceptual: nn.Module | None,
        estimator: nn.Module | None,
    ):
        self.config = config
        self.autoencoder, self.discriminator = autoencoder, discriminator
        self.perceptual, self.estimator = perceptual, estimator

    def __call__(
        self, batch: Batch, draws: Draws, *, discriminator_steps: int = 1, lr_scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Updates both players once (the discriminator `discriminator_steps` times).

        Returns:
            Every loss by name, unweighted, detached; and the discriminator's mean logits as
            "logits/real" and "logits/fake".
        """
        real = augment.mirror(batch.image, draws.flip)
        label_map = augment.mirror(batch.label_map, draws.flip)
        if self.config.channels_last:
            real = real.contiguous(memory_format=torch.channels_last)
        own = augment.drop_attributes(batch.attributes, draws.dropped)
        requested = augment.request(batch.attributes, draws) if draws.swap else None

        with self._autocast(real.device):
            renders = self.autoencoder(real, label_map, own, draws.noise, requested)
        # The discriminator sees reconstruction and swap as fakes alike, each with what was asked of it.
        fakes, asked = [renders.image], [own]
        if renders.swapped is not None and requested is not None:
            fakes, asked = [*fakes, renders.swapped], [*asked, requested]
        judged = _Judged(
            label_map=torch.cat([label_map] * (len(fakes) + 1)),
            fakes=torch.cat(fakes),
            real=real,
            attributes=torch.cat([*asked, own]) if self.config.network.projection else None,
        )
        log: dict[str, Tensor] = {}
        for _ in range(discriminator_steps):
            log |= self._update_discriminator(judged, lr_scale)
        log |= self._update_autoencoder(judged, renders, batch.attributes, requested, draws, lr_scale)
        return {name: value.detach() for name, value in log.items()}

    def _update_discriminator(self, judged: _Judged, lr_scale: float) -> dict[str, Tensor]:
        with self._autocast(judged.real.device):
            features = self.discriminator(judged.label_map, judged.pictures(detached=True), judged.attributes)
        fake, real = _split(features, len(judged.fakes))
        loss = losses.hinge_discriminator(real, fake)
        self.discriminator.update(loss, lr_scale)
        logits = {"logits/real": real, "logits/fake": fake}
        means = {name: torch.stack([scale[-1].mean() for scale in f]).mean() for name, f in logits.items()}
        return {"discriminator": loss, **means}

    def _update_autoencoder(
        self,
        judged: _Judged,
        renders: Renders,
        attributes: Tensor,
        requested: Tensor | None,
        draws: Draws,
        lr_scale: float,
    ) -> dict[str, Tensor]:
        # Through the bare module: the discriminator's wrapper would prepare to exchange its gradients.
        with frozen(self.discriminator.module), self._autocast(judged.real.device):
            features = self.discriminator.module(judged.label_map, judged.pictures(), judged.attributes)
        fake, real = _split(features, len(judged.fakes))
        count = len(judged.real)
        reconstruction = [[layer[:count] for layer in scale] for scale in fake]
        image = renders.image.float()
        terms = {
            "gan": losses.hinge_generator(fake),
            "feature_matching": losses.feature_matching(real, reconstruction),
            "kl": losses.kl_divergence(renders.mean.float(), renders.log_variance.float()),
            "pixel": l1_loss(image, judged.real),
        }
        if self.perceptual is not None:
            with self._autocast(judged.real.device):
                terms["perceptual"] = self.perceptual(image, judged.real).float()
        if renders.swapped is not None and requested is not None:
            terms |= self._swap_terms(renders, judged.real, attributes, requested, draws)
        weights = {**vars(self.config.loss), "pixel": self.config.pixel, "identity": self.config.swap.identity}
        self.autoencoder.update(torch.stack([weights[k] * v for k, v in terms.items()]).sum(), lr_scale)
        return terms

    def _swap_terms(
        self, renders: Renders, real: Tensor, attributes: Tensor, requested: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """What a picture at a requested age must fulfil: look that age, keep the gender asked for, keep the sitter."""
        assert renders.swapped is not None and renders.swapped_mean is not None
        swapped = renders.swapped.float()
        terms = {
            "identity": identity_loss(swapped, real, attributes, requested, self.config.swap.identity_years),
            "latent": losses.latent_consistency(renders.swapped_mean.float(), renders.latent),
        }
        if self.estimator is not None:
            age, p_male = self.estimator(swapped)
            terms["age"] = losses.attribute_age_loss(age, draws.age)
            known = requested[:, GENDER_KNOWN] > 0.5
            # A sitter of unknown gender is given the estimator's own answer as target: no gradient.
            target = torch.where(known, requested[:, GENDER], p_male.detach())
            terms["gender"] = losses.attribute_gender_loss(p_male, target)
        return terms

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16")


class _Judged(NamedTuple):
    """One batch for the discriminator: F fakes, then B real pictures, so that all share its statistics."""

    label_map: Tensor  # (F + B)×R×R
    fakes: Tensor  # F×3×R×R
    real: Tensor  # B×3×R×R
    attributes: Tensor | None  # (F + B)×19 for a projection discriminator

    def pictures(self, detached: bool = False) -> Tensor:
        return torch.cat([self.fakes.detach() if detached else self.fakes, self.real.to(self.fakes.dtype)])


def identity_loss(swapped: Tensor, real: Tensor, attributes: Tensor, requested: Tensor, half_at_years: float) -> Tensor:
    """L1 between swapped picture and sitter at a quarter of the resolution, weighted by 1 / (1 + |Δage| / half).

    Low frequencies carry pose, light, colour and the shape of the head, which must stay; wrinkles are high
    ones and may change. The further the requested age is away, the more may change. A sitter of unknown age
    counts as `half_at_years` away.
    """
    years = 100.0 * (requested[:, AGE] - attributes[:, AGE]).abs()
    years = torch.where(attributes[:, AGE_KNOWN] > 0.5, years, torch.full_like(years, half_at_years))
    distance = (avg_pool2d(swapped, 4) - avg_pool2d(real.float(), 4)).abs().mean((1, 2, 3))
    return (distance / (1.0 + years / half_at_years)).mean()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Lets gradients pass through a network, but not into its weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def _split(features: Features, count: int) -> tuple[Features, Features]:
    """Divides the batch of all features into the first `count` and the rest, in float32."""
    first = [[layer[:count].float() for layer in scale] for scale in features]
    rest = [[layer[count:].float() for layer in scale] for scale in features]
    return first, rest
