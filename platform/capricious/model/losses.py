"""The loss terms of training. Each returns a scalar, a mean over the batch, free of its weight."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, l1_loss, relu, smooth_l1_loss

from capricious.errors import ConfigError
from capricious.model.discriminator import Features


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms in the generator's loss; 0 switches a term off.

    Attributes:
        gan, feature_matching, perceptual: the paper's 1, 10, 10.
        kl: the paper's 0.05, on a KL that is a mean over the batch. Public code sums over the batch, so
            its 0.05 on b pictures per GPU is 0.05 · b here (0.2 for the paper's 4 per GPU).
        age, gender: how far the estimated attributes of a swapped picture are from the wanted ones.
        latent: how far the style code of a swapped picture is from the one it was made from.
        adversary: how hard the encoder is pushed to leave age and gender out of the style code
            (model/adversary.py), so that the generator has to take them from the attributes.
    """

    gan: float = 1.0
    feature_matching: float = 10.0
    perceptual: float = 10.0
    kl: float = 0.05
    age: float = 5.0
    gender: float = 0.5
    latent: float = 1.0
    adversary: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value < float("inf"):
                raise ConfigError(f"LossWeights.{field.name} must be a finite number ≥ 0, found: {value!r}")


def hinge_discriminator(real: Features, fake: Features) -> Tensor:
    """Hinge loss of the discriminator: E[max(0, 1 − D(real))] + E[max(0, 1 + D(fake))], mean over scales."""
    return hinge_real(real) + hinge_fake(fake)


def hinge_real(features: Features) -> Tensor:
    """E[max(0, 1 − D)], mean over scales: the half of the hinge loss that is about real pictures."""
    return torch.stack([relu(1.0 - scale[-1]).mean() for scale in features]).mean()


def hinge_fake(features: Features, weight: Tensor | None = None) -> Tensor:
    """E[weight · max(0, 1 + D)], mean over scales: the other half.

    Args:
        weight: B in 0…1, how much each picture counts as a fake; None: all do.
    """
    each = [relu(1.0 + scale[-1]) for scale in features]
    if weight is not None:
        each = [weight.view(-1, 1, 1, 1) * loss for loss in each]
    return torch.stack([loss.mean() for loss in each]).mean()


def hinge_generator(fake: Features) -> Tensor:
    """Hinge loss of the generator: −E[D(fake)], mean over scales."""
    return torch.stack([-scale[-1].float().mean() for scale in fake]).mean()


def feature_matching(real: Features, fake: Features) -> Tensor:
    """L1 between the discriminator's features of real and fake pictures, its logits left out.

    Mean over the elements of a layer, sum over layers, mean over scales (pix2pixHD, equation 4). No
    gradient flows into `real`.
    """
    losses = [
        torch.stack([l1_loss(f.float(), r.detach().float()) for r, f in zip(rs[:-1], fs[:-1], strict=True)]).sum()
        for rs, fs in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def gradient_penalty(judgement: Features, image: Tensor) -> Tensor:
    """R1: ‖∇ₓ D(x)‖², summed over the picture, mean over the batch (Mescheder et al. 2018, equation 9, without γ/2).

    D(x) is the mean logit over patches and scales. It keeps the discriminator from a steep slope around real
    pictures, which is what makes the game diverge.

    Args:
        judgement: the discriminator's of `image`, computed in float32.
        image: B×3×R×R real pictures that require a gradient.
    """
    scores = torch.stack([scale[-1].mean((1, 2, 3)) for scale in judgement]).mean(0)
    (gradient,) = torch.autograd.grad(scores.sum(), image, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) of B×latent parameters: sum over the latent, mean over the batch.

    Kingma & Welling 2014, appendix B. Independent of the batch size; see LossWeights.kl.
    """
    per_sample = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
    return per_sample.mean()


AGE_TOLERANCE = 5.0
"""Years below which the age loss is quadratic: about the estimator's own mean error."""


def attribute_age_loss(estimated: Tensor, target: Tensor) -> Tensor:
    """Huber distance between estimated and wanted ages (B, in years), divided by 100 years.

    Linear beyond AGE_TOLERANCE, so that a sitter whom the estimator misjudges does not rule the batch.
    """
    return smooth_l1_loss(estimated, target, beta=AGE_TOLERANCE) / 100.0


def attribute_gender_loss(p_male: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy between the estimated probability of male (B) and the wanted gender in 0…1 (B)."""
    # binary_cross_entropy refuses to run under autocast; both inputs are B numbers.
    with torch.autocast(p_male.device.type, enabled=False):
        return binary_cross_entropy(p_male.float(), target.float())


def latent_consistency(encoded: Tensor, latent: Tensor) -> Tensor:
    """Mean L1 between the style code read from a picture and the one it was made from (both B×latent).

    No gradient flows into `latent`: it is the target.
    """
    return l1_loss(encoded, latent.detach())
