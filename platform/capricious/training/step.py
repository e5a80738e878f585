"""One step of the game between generator (with its encoder) and discriminator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
from capricious.training.augment import GENDER, GENDER_KNOWN, Draws
from capricious.training.batches import Batch
from capricious.training.compiled import as_it_is, compiled, uncompiled
from capricious.training.config import PairAugmentConfig, TrainingConfig
from capricious.training.estimator_view import estimator_view
from capricious.training.judges import Judges
from capricious.training.networks import Renders
from capricious.training.painterly import painterly
from capricious.training.pair_augment import augment_pairs
from capricious.training.sitters import Sitters, identity_loss
from capricious.training.strategy import Player


class GanStep:
    """Hinge GAN with feature matching, perceptual and KL loss (SPADE §3), and the swap pass (docs/model.md).

    The generator runs once: the discriminator learns from its detached pictures first, then judges them
    for the generator, frozen. Every loss is computed in float32, whatever the networks run in.

    Args:
        autoencoder, discriminator: the two players, as prepared by a strategy.
        judges: frozen; those that the losses of `config` need.
    """

    def __init__(
        self,
        config: TrainingConfig,
        autoencoder: Player,
        discriminator: Player,
        judges: Judges,
    ):
        self.config = config
        self.autoencoder, self.discriminator = autoencoder, discriminator
        self.judges = judges
        self._reconstructs = config.learns == "all"
        # Compiled, these read the features of two batches once; as written, there are four passes over them.
        fused = compiled if config.compile else as_it_is
        self._feature_matching = fused(losses.feature_matching)
        self._compare = None if judges.perceptual is None else fused(judges.perceptual.compare)
        self._weights = {
            **vars(config.loss),
            "pixel": config.pixel,
            "identity": config.swap.identity,
            "identity_features": config.swap.identity_features,
            "likeness": config.swap.likeness,
        }

    def __call__(
        self,
        batch: Batch,
        draws: Draws,
        *,
        discriminator_steps: int = 1,
        augment_probability: float | Tensor = 0.0,
    ) -> dict[str, Tensor]:
        """Updates both players once (the discriminator `discriminator_steps` times).

        With a tensor as `augment_probability`, 0 too, the pairs are always augmented: nobody looks at its value.

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
        sitters = Sitters(real, batch.attributes, requested)
        judged = self._judged(renders, real, label_map, own, requested, draws, augment_probability)
        log: dict[str, Tensor] = {}
        for i in range(discriminator_steps):
            regularized = i == 0 and self.regularizes(draws)
            log |= self._update_discriminator(judged, sitters, regularized)
        log |= self._update_autoencoder(judged, renders, sitters, draws)
        return {name: value.detach() for name, value in log.items()}

    def regularizes(self, draws: Draws) -> bool:
        """Whether R1 is due in the step of these draws."""
        return draws.step % self.config.r1.every == 0 and self.config.r1.weight > 0

    def _judged(
        self,
        renders: Renders,
        real: Tensor,
        label_map: Tensor,
        own: Tensor,
        requested: Tensor | None,
        draws: Draws,
        probability: float | Tensor,
    ) -> _Judged:
        """Gathers what the discriminator sees: reconstruction and swap, where they learn, as fakes alike, each with
        what was asked."""
        fakes, asked = ([renders.image], [own]) if self._reconstructs else ([], [])
        if renders.swapped is not None and requested is not None:
            # As much is hidden of these as of real pictures' attributes, or that alone would give them away.
            hidden = augment.drop_attributes(requested, draws.dropped_but_age)
            fakes, asked = [*fakes, renders.swapped], [*asked, hidden]
        fake = _Pairs(torch.cat([label_map] * len(fakes)), torch.cat(fakes), torch.cat(asked))
        true = _Pairs(label_map, real, own)
        if isinstance(probability, Tensor) or probability > 0:
            # The same to a portrait and to what was made of it: feature matching compares them place by place.
            fake = fake.augmented(draws.pair.repeat(len(fakes), 1), probability, self.config.augment)
            true = true.augmented(draws.pair, probability, self.config.augment)
        return _Judged(fake, true)

    def _update_discriminator(self, judged: _Judged, sitters: Sitters, regularized: bool) -> dict[str, Tensor]:
        fake, real = judged
        shown = [fake._replace(image=fake.image.detach()), real]
        if self.config.mismatched:
            # The next sitter's, so that nothing but the picture tells right attributes from wrong ones.
            others = real.attributes.roll(1, 0)
            shown.append(real._replace(attributes=others))
        with self._autocast(real.image.device):
            # In one batch, for one exchange of gradients and one power iteration of the spectral norm.
            features = self.discriminator(
                torch.cat([pairs.label_map for pairs in shown]),
                torch.cat([pairs.image.to(fake.image.dtype) for pairs in shown]),
                torch.cat([pairs.attributes for pairs in shown]),
            )
        of_fake, of_real, *of_mismatched = _logits_apart(features, [len(pairs.image) for pairs in shown])
        loss = losses.hinge_discriminator(of_real, of_fake)
        log = {"discriminator": loss}
        if of_mismatched:
            log["mismatched"] = losses.hinge_fake(of_mismatched[0], sitters.mismatch(others))
            # Fakes of both kinds weigh as much as real pictures, or in doubt everything were a fake.
            share = self.config.mismatched / (1.0 + self.config.mismatched)
            loss = losses.hinge_real(of_real) + losses.hinge_fake(of_fake).lerp(log["mismatched"], share)
        if regularized:
            log["r1"] = self._gradient_penalty(real)
            loss = loss + 0.5 * self.config.r1.weight * self.config.r1.every * log["r1"]
        self.discriminator.update(loss)
        logits = {"real": [scale[-1] for scale in of_real], "fake": [scale[-1] for scale in of_fake]}
        log |= {f"logits/{name}": _mean_over_scales(values) for name, values in logits.items()}
        return log | {"logits/real_sign": _mean_over_scales([values.sign() for values in logits["real"]])}

    def _gradient_penalty(self, real: _Pairs) -> Tensor:
        # In float32: a squared gradient of bfloat16 logits is noise. Through the bare module, whose gradients meet
        # those of the hinge loss in one backward pass.
        image = real.image.detach().float().requires_grad_()
        with uncompiled() if self.config.compile else nullcontext():  # what is compiled has no second derivative
            return losses.gradient_penalty(self.discriminator.module(real.label_map, image, real.attributes), image)

    def _update_autoencoder(
        self, judged: _Judged, renders: Renders, sitters: Sitters, draws: Draws
    ) -> dict[str, Tensor]:
        of_fake, of_real = self._judgement(judged)
        terms = {"gan": losses.hinge_generator(of_fake)}
        if self._reconstructs:
            of_reconstruction = [[layer[: len(sitters.image)] for layer in scale] for scale in of_fake]
            terms |= {
                "feature_matching": self._feature_matching(of_real, of_reconstruction),
                "kl": losses.kl_divergence(renders.mean.float(), renders.log_variance.float()),
                "pixel": l1_loss(renders.image.float(), sitters.image),
            }
        if renders.guess is not None:
            terms["adversary"] = adversary_loss(renders.guess, sitters.attributes)
        if self.judges.perceptual is not None:
            terms |= self._perceptual_terms(self.judges.perceptual, renders, sitters)
        if renders.swapped is not None:
            terms |= self._swap_terms(renders, sitters, draws)
        weighted = {name: self._weights[name] * value for name, value in terms.items()}
        self.autoencoder.update(torch.stack(list(weighted.values())).sum())
        magnitudes = {name: value.detach().abs() for name, value in weighted.items()}
        total = torch.stack(list(magnitudes.values())).sum().clamp(min=1e-12)
        return terms | {f"share/{name}": value / total for name, value in magnitudes.items()}

    def _judgement(self, judged: _Judged) -> tuple[Features, Features]:
        """Returns the frozen discriminator's features of fake pictures, and of real ones without a gradient where
        reconstructions are compared with them."""
        discriminator, (fake, real) = self.discriminator.module, judged
        # Through the bare module: the discriminator's wrapper would prepare to exchange its gradients. Apart, because
        # nothing flows back into the real half, and with one power iteration for both.
        with frozen(discriminator), self._autocast(real.image.device), parametrize.cached():
            of_fake = discriminator(*fake)
            of_real: Features = []
            if self._reconstructs:
                with torch.no_grad():
                    of_real = discriminator(real.label_map, real.image.to(fake.image.dtype), real.attributes)
        return of_fake, of_real

    def _perceptual_terms(self, perceptual: PerceptualLoss, renders: Renders, sitters: Sitters) -> dict[str, Tensor]:
        def features(pictures: Tensor) -> list[Tensor]:
            layers: list[Tensor] = perceptual(avg_pool2d(pictures, self.config.perceptual_pool))
            return layers

        terms = {}
        with self._autocast(renders.image.device):
            with torch.no_grad():
                wanted = features(sitters.image)
            if self._reconstructs:
                assert self._compare is not None
                terms["perceptual"] = self._compare(features(renders.image.float()), wanted)
            if renders.swapped is not None and self.config.swap.identity_features:
                found = features(renders.swapped)
                distance = (found[-1].float() - wanted[-1].float()).abs().mean((1, 2, 3))
                terms["identity_features"] = sitters.nearer_more(distance, self.config.swap.identity_years)
        return terms

    def _swap_terms(self, renders: Renders, sitters: Sitters, draws: Draws) -> dict[str, Tensor]:
        """What a picture at a requested age must fulfil: look that age, keep the gender asked for, keep the sitter."""
        assert renders.swapped is not None and sitters.requested is not None
        swapped = renders.swapped.float()
        terms = {"identity": identity_loss(swapped, sitters, self.config.swap.identity_years)}
        if renders.swapped_mean is not None:
            terms["latent"] = losses.latent_consistency(renders.swapped_mean.float(), renders.latent)
        if self.judges.likeness is not None:
            terms["likeness"] = self._likeness_loss(self.judges.likeness, swapped, sitters, draws)
        if self.judges.estimators:
            terms |= self._age_and_gender_terms(swapped, sitters.requested, draws)
        return terms

    def _age_and_gender_terms(self, swapped: Tensor, requested: Tensor, draws: Draws) -> dict[str, Tensor]:
        seen = self._seen(swapped, draws)
        ages, genders = [], []
        for estimator, wanted in zip(self.judges.estimators, self.judges.wanted(draws.age), strict=True):
            age, p_male = estimator(seen)
            ages.append(losses.attribute_age_loss(age, wanted))
            # A sitter of unknown gender is given the estimator's own answer as target: no gradient.
            target = torch.where(requested[:, GENDER_KNOWN] > 0.5, requested[:, GENDER], p_male.detach())
            genders.append(losses.attribute_gender_loss(p_male, target))
        return {"age": torch.stack(ages).mean(), "gender": torch.stack(genders).mean()}

    def _likeness_loss(self, recognizer: nn.Module, swapped: Tensor, sitters: Sitters, draws: Draws) -> Tensor:
        with self._autocast(swapped.device):
            with torch.no_grad():
                wanted = recognizer(self._seen(sitters.image.float(), draws))
            found = recognizer(self._seen(swapped, draws))
        return sitters.nearer_more(1.0 - (found * wanted).sum(1), self.config.swap.identity_years)

    def _seen(self, pictures: Tensor, draws: Draws) -> Tensor:
        return estimator_view(pictures, draws.view) if self.config.swap.estimator_views else pictures

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16")


class _Pairs(NamedTuple):
    """What the discriminator takes: B×R×R label maps, B×3×R×R pictures, B×19 attributes."""

    label_map: Tensor
    image: Tensor
    attributes: Tensor

    def augmented(self, numbers: Tensor, probability: float | Tensor, config: PairAugmentConfig) -> _Pairs:
        label_map, image = augment_pairs(self.label_map, self.image, numbers, probability, config)
        return self._replace(label_map=label_map, image=image)


class _Judged(NamedTuple):
    fake: _Pairs
    real: _Pairs


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Lets gradients pass through a network, but not into its weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def _logits_apart(features: Features, counts: list[int]) -> list[Features]:
    """Takes the logits of a batch of features apart, into float32 parts of so many samples."""
    parts = [scale[-1].float().split(counts) for scale in features]
    return [[[scale[i]] for scale in parts] for i in range(len(counts))]


def _mean_over_scales(logits: list[Tensor]) -> Tensor:
    return torch.stack([scale.mean() for scale in logits]).mean()
