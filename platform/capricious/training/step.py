"""One step of the game between generator (with its encoder) and discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, l1_loss
from torch.nn.utils import parametrize

from capricious.model import losses
from capricious.model.adversary import adversary_loss
from capricious.model.discriminator import Features
from capricious.model.perceptual import PerceptualLoss
from capricious.training import augment
from capricious.training.augment import AGE, AGE_KNOWN, GENDER, GENDER_KNOWN, Draws
from capricious.training.batches import Batch
from capricious.training.config import PairAugmentConfig, TrainingConfig
from capricious.training.estimator_view import estimator_view
from capricious.training.networks import Renders
from capricious.training.painterly import painterly
from capricious.training.pair_augment import augment_pairs
from capricious.training.put_back import put_back
from capricious.training.strategy import Player


class GanStep:
    """Hinge GAN with feature matching, perceptual and KL loss (SPADE §3), and the swap pass (docs/model.md).

    The generator runs once: the discriminator learns from its detached pictures first, then judges them
    for the generator, frozen. Every loss is computed in float32, whatever the networks run in.

    Args:
        autoencoder, discriminator: the two players, as prepared by a strategy.
        perceptual: frozen; see `model.perceptual`. None where nothing needs it.
        estimators: frozen; image → (age in years, p_male). Empty where the swap is off.
    """

    def __init__(
        self,
        config: TrainingConfig,
        autoencoder: Player,
        discriminator: Player,
        perceptual: PerceptualLoss | None,
        estimators: Sequence[nn.Module],
    ):
        self.config = config
        self.autoencoder, self.discriminator = autoencoder, discriminator
        self.perceptual, self.estimators = perceptual, estimators
        self._weights = {
            **vars(config.loss),
            "pixel": config.pixel,
            "identity": config.swap.identity,
            "identity_features": config.swap.identity_features,
        }

    def __call__(
        self,
        batch: Batch,
        draws: Draws,
        *,
        discriminator_steps: int = 1,
        augment_probability: float = 0.0,
        lr_scale: float = 1.0,
    ) -> dict[str, Tensor]:
        """Updates both players once (the discriminator `discriminator_steps` times).

        Returns:
            Detached scalars: every loss by name, unweighted; "share/NAME", how much of the generator's loss each
            term is with its weight (of the sum of magnitudes, so that they add up to 1); the discriminator's mean
            logits as "logits/real" and "logits/fake"; "logits/real_sign", the mean sign of the first.
        """
        real = augment.mirror(batch.image, draws.flip)
        label_map = augment.mirror(batch.label_map, draws.flip)
        if self.config.painterly:
            real = painterly(real, draws.paint, self.config.painterly)
        if self.config.channels_last:
            real = real.contiguous(memory_format=torch.channels_last)
        inside = augment.mirror(batch.inside, draws.flip).unsqueeze(1)
        own = augment.drop_attributes(batch.attributes, draws.dropped)
        requested = augment.request(batch.attributes, draws) if draws.swap else None

        with self._autocast(real.device):
            renders = self.autoencoder(real, label_map, own, draws.noise, requested)
        # Beyond the edge of a tightly cropped photograph the crop was invented: blank in portrait and render alike,
        # before anybody compares them, it teaches nothing.
        real, renders = real * inside, renders.where(inside)
        if self.config.swap.put_back and renders.swapped is not None:
            renders = renders._replace(swapped=put_back(real, label_map, renders.image, renders.swapped))
        sitters = Sitters(real, batch.attributes, requested)
        judged = self._judged(renders, real, label_map, own, requested, draws.pair, augment_probability)
        log: dict[str, Tensor] = {}
        for i in range(discriminator_steps):
            regularized = i == 0 and draws.step % self.config.r1.every == 0 and self.config.r1.weight > 0
            log |= self._update_discriminator(judged, lr_scale, regularized)
        log |= self._update_autoencoder(judged, renders, sitters, draws, lr_scale)
        return {name: value.detach() for name, value in log.items()}

    def _judged(
        self,
        renders: Renders,
        real: Tensor,
        label_map: Tensor,
        own: Tensor,
        requested: Tensor | None,
        numbers: Tensor,
        probability: float,
    ) -> _Judged:
        """Gathers what the discriminator sees: reconstruction and swap as fakes alike, each with what was asked."""
        fakes, asked = [renders.image], [own]
        if renders.swapped is not None and requested is not None:
            fakes, asked = [*fakes, renders.swapped], [*asked, requested]
        fake = _Pairs(torch.cat([label_map] * len(fakes)), torch.cat(fakes), torch.cat(asked))
        true = _Pairs(label_map, real, own)
        if probability:
            # The same to a portrait and to what was made of it: feature matching compares them place by place.
            fake = fake.augmented(numbers.repeat(len(fakes), 1), probability, self.config.augment)
            true = true.augmented(numbers, probability, self.config.augment)
        return _Judged(fake, true)

    def _update_discriminator(self, judged: _Judged, lr_scale: float, regularized: bool) -> dict[str, Tensor]:
        fake, real = judged
        with self._autocast(real.image.device):
            # In one batch, for one exchange of gradients and one power iteration of the spectral norm.
            features = self.discriminator(
                torch.cat([fake.label_map, real.label_map]),
                torch.cat([fake.image.detach(), real.image.to(fake.image.dtype)]),
                torch.cat([fake.attributes, real.attributes]),
            )
        count = len(fake.image)
        of_fake = [[layer[:count].float() for layer in scale] for scale in features]
        of_real = [[layer[count:].float() for layer in scale] for scale in features]
        loss = losses.hinge_discriminator(of_real, of_fake)
        log = {"discriminator": loss}
        if regularized:
            log["r1"] = self._gradient_penalty(real)
            loss = loss + 0.5 * self.config.r1.weight * self.config.r1.every * log["r1"]
        self.discriminator.update(loss, lr_scale)
        logits = {"real": [scale[-1] for scale in of_real], "fake": [scale[-1] for scale in of_fake]}
        log |= {f"logits/{name}": _mean_over_scales(values) for name, values in logits.items()}
        return log | {"logits/real_sign": _mean_over_scales([values.sign() for values in logits["real"]])}

    def _gradient_penalty(self, real: _Pairs) -> Tensor:
        # In float32: a squared gradient of bfloat16 logits is noise. Through the bare module, whose gradients meet
        # those of the hinge loss in one backward pass.
        image = real.image.detach().float().requires_grad_()
        return losses.gradient_penalty(self.discriminator.module(real.label_map, image, real.attributes), image)

    def _update_autoencoder(
        self, judged: _Judged, renders: Renders, sitters: Sitters, draws: Draws, lr_scale: float
    ) -> dict[str, Tensor]:
        of_fake, of_real = self._judgement(judged)
        of_reconstruction = [[layer[: len(sitters.image)] for layer in scale] for scale in of_fake]
        image = renders.image.float()
        terms = {
            "gan": losses.hinge_generator(of_fake),
            "feature_matching": losses.feature_matching(of_real, of_reconstruction),
            "kl": losses.kl_divergence(renders.mean.float(), renders.log_variance.float()),
            "pixel": l1_loss(image, sitters.image),
        }
        if renders.guess is not None:
            terms["adversary"] = adversary_loss(renders.guess, sitters.attributes)
        if self.perceptual is not None:
            terms |= self._perceptual_terms(self.perceptual, image, renders.swapped, sitters)
        if renders.swapped is not None:
            terms |= self._swap_terms(renders, sitters, draws)
        weighted = {name: self._weights[name] * value for name, value in terms.items()}
        self.autoencoder.update(torch.stack(list(weighted.values())).sum(), lr_scale)
        magnitudes = {name: value.detach().abs() for name, value in weighted.items()}
        total = torch.stack(list(magnitudes.values())).sum().clamp(min=1e-12)
        return terms | {f"share/{name}": value / total for name, value in magnitudes.items()}

    def _judgement(self, judged: _Judged) -> tuple[Features, Features]:
        """Returns the frozen discriminator's features of fake pictures, and of real ones without a gradient."""
        discriminator, (fake, real) = self.discriminator.module, judged
        # Through the bare module: the discriminator's wrapper would prepare to exchange its gradients. Apart, because
        # nothing flows back into the real half, and with one power iteration for both.
        with frozen(discriminator), self._autocast(real.image.device), parametrize.cached():
            of_fake = discriminator(*fake)
            with torch.no_grad():
                of_real = discriminator(real.label_map, real.image.to(fake.image.dtype), real.attributes)
        return _in_float32(of_fake), _in_float32(of_real)

    def _perceptual_terms(
        self, perceptual: PerceptualLoss, image: Tensor, swapped: Tensor | None, sitters: Sitters
    ) -> dict[str, Tensor]:
        def features(pictures: Tensor) -> list[Tensor]:
            return perceptual.features(avg_pool2d(pictures, self.config.perceptual_pool))

        with self._autocast(image.device):
            with torch.no_grad():
                wanted = features(sitters.image)
            terms = {"perceptual": perceptual.compare(features(image), wanted).float()}
            if swapped is not None and self.config.swap.identity_features:
                found = features(swapped)
                distance = (found[-1].float() - wanted[-1].float()).abs().mean((1, 2, 3))
                terms["identity_features"] = sitters.nearer_more(distance, self.config.swap.identity_years)
        return terms

    def _swap_terms(self, renders: Renders, sitters: Sitters, draws: Draws) -> dict[str, Tensor]:
        """What a picture at a requested age must fulfil: look that age, keep the gender asked for, keep the sitter."""
        assert renders.swapped is not None and renders.swapped_mean is not None and sitters.requested is not None
        swapped = renders.swapped.float()
        terms = {
            "identity": identity_loss(swapped, sitters, self.config.swap.identity_years),
            "latent": losses.latent_consistency(renders.swapped_mean.float(), renders.latent),
        }
        if self.estimators:
            terms |= self._age_and_gender_terms(swapped, sitters.requested, draws)
        return terms

    def _age_and_gender_terms(self, swapped: Tensor, requested: Tensor, draws: Draws) -> dict[str, Tensor]:
        seen = estimator_view(swapped, draws.view) if self.config.swap.estimator_views else swapped
        ages, genders = [], []
        for estimator in self.estimators:
            age, p_male = estimator(seen)
            ages.append(losses.attribute_age_loss(age, draws.age))
            # A sitter of unknown gender is given the estimator's own answer as target: no gradient.
            target = torch.where(requested[:, GENDER_KNOWN] > 0.5, requested[:, GENDER], p_male.detach())
            genders.append(losses.attribute_gender_loss(p_male, target))
        return {"age": torch.stack(ages).mean(), "gender": torch.stack(genders).mean()}

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16")


class _Pairs(NamedTuple):
    """What the discriminator takes: B×R×R label maps, B×3×R×R pictures, B×19 attributes."""

    label_map: Tensor
    image: Tensor
    attributes: Tensor

    def augmented(self, numbers: Tensor, probability: float, config: PairAugmentConfig) -> _Pairs:
        label_map, image = augment_pairs(self.label_map, self.image, numbers, probability, config)
        return self._replace(label_map=label_map, image=image)


class _Judged(NamedTuple):
    fake: _Pairs
    real: _Pairs


@dataclass(frozen=True)
class Sitters:
    """Who is rendered: B×3×R×R portraits, their own B×19 attributes, and those requested of the swap."""

    image: Tensor
    attributes: Tensor
    requested: Tensor | None

    def nearer_more(self, distance: Tensor, half_at_years: float) -> Tensor:
        """Returns the mean of B distances, each weighted by 1 / (1 + |Δage| / half).

        The further the requested age is away, the more may change. A sitter of unknown age counts as `half_at_years`
        away.
        """
        assert self.requested is not None
        years = 100.0 * (self.requested[:, AGE] - self.attributes[:, AGE]).abs()
        years = torch.where(self.attributes[:, AGE_KNOWN] > 0.5, years, torch.full_like(years, half_at_years))
        return (distance / (1.0 + years / half_at_years)).mean()


def identity_loss(swapped: Tensor, sitters: Sitters, half_at_years: float) -> Tensor:
    """L1 between swapped picture and sitter at a quarter of the resolution, weighted as `Sitters.nearer_more` does.

    Low frequencies carry pose, light, colour and the shape of the head, which must stay; wrinkles are high
    ones and may change.
    """
    distance = (avg_pool2d(swapped, 4) - avg_pool2d(sitters.image.float(), 4)).abs().mean((1, 2, 3))
    return sitters.nearer_more(distance, half_at_years)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Lets gradients pass through a network, but not into its weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def _in_float32(features: Features) -> Features:
    return [[layer.float() for layer in scale] for scale in features]


def _mean_over_scales(logits: list[Tensor]) -> Tensor:
    return torch.stack([scale.mean() for scale in logits]).mean()
