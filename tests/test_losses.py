"""Losses against closed forms and independent implementations."""

import pytest
import torch
from model_tools import random_labels
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from capricious.errors import ConfigError
from capricious.model import losses
from capricious.model.discriminator import Discriminator, DiscriminatorConfig
from capricious.model.losses import LossWeights


def features(seed: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [[(2, 4, 5, 5), (2, 8, 3, 3), (2, 1, 2, 2)], [(2, 4, 3, 3), (2, 8, 2, 2), (2, 1, 1, 1)]]
    return [[torch.randn(s, generator=generator) for s in scale] for scale in shapes]


def logits(*values: float) -> list[list[torch.Tensor]]:
    return [[torch.tensor([[value]])] for value in values]


def test_hinge_losses_in_closed_form():
    # Scales: (max(0, 1 − 2) + max(0, 1 − 3)) and (max(0, 1 − 0.5) + max(0, 1 + 1)), then their mean.
    assert losses.hinge_discriminator(logits(2.0, 0.5), logits(-3.0, 1.0)).item() == pytest.approx((0.0 + 2.5) / 2)
    assert losses.hinge_generator(logits(-3.0, 1.0)).item() == pytest.approx(1.0)


def test_hinge_leaves_confident_patches_alone():
    real = torch.tensor([2.0, 0.0], requires_grad=True)
    losses.hinge_discriminator([[real]], logits(-2.0)).backward()
    assert real.grad.tolist() == [0.0, -0.5]


def test_feature_matching_sums_layers_averages_scales_and_skips_logits():
    real, fake = features(0), features(1)
    distances = [(fake[s][layer] - real[s][layer]).abs().mean() for s in (0, 1) for layer in (0, 1)]
    expected = sum(distances) / 2
    found = losses.feature_matching(real, fake)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for scale in fake:
        scale[-1] += 100.0
    assert losses.feature_matching(real, fake).item() == found.item()
    assert losses.feature_matching(real, real).item() == 0.0


def test_feature_matching_gives_the_real_side_no_gradient():
    real, fake = torch.randn(1, 2, 3, 3, requires_grad=True), torch.randn(1, 2, 3, 3, requires_grad=True)
    end = torch.zeros(1, 1, 1, 1)
    losses.feature_matching([[real, end]], [[fake, end]]).backward()
    assert real.grad is None and fake.grad.abs().sum() > 0


def test_gradient_penalty_in_closed_form():
    # D(x) = mean over patches of ½·c·x², so that ∂D/∂x = c·x/n: two scales of other c and patch count.
    x = torch.randn(2, 1, 4, 4, requires_grad=True)
    c = torch.tensor([2.0, 4.0], requires_grad=True)
    judgement = [[0.5 * c[0] * x.square()], [0.5 * c[1] * x.square()]]
    penalty = losses.gradient_penalty(judgement, x)
    expected = (x / 16 * c.mean()).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(penalty, expected)
    # Its gradient reaches the discriminator's weights: d/dc of mean Σ (x/16)²·c̄².
    (found,) = torch.autograd.grad(penalty, c)
    wanted = (x / 16).square().sum((1, 2, 3)).mean() * c.mean()  # 2·c̄·½ for each of two
    torch.testing.assert_close(found, wanted.expand(2).detach())


def test_gradient_penalty_of_a_real_discriminator_agrees_with_differences():
    torch.manual_seed(0)
    network = Discriminator(DiscriminatorConfig(width=2, scales=2)).eval().double()
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    labels, image = random_labels(1, 16), torch.randn(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)

    def score(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([scale[-1].mean() for scale in network(labels, x)]).mean()

    found = losses.gradient_penalty(network(labels, image), image).item()
    steps = 1e-5 * torch.eye(image.numel(), dtype=torch.float64).view(-1, 3, 16, 16)
    with torch.no_grad():
        slopes = torch.stack([score(image + s[None]) - score(image - s[None]) for s in steps]) / 2e-5
    assert found == pytest.approx(slopes.square().sum().item(), rel=1e-4)


def test_kl_agrees_with_torch_distributions():
    mean, log_variance = torch.randn(6, 128), torch.randn(6, 128)
    expected = torch_kl(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(losses.kl_divergence(mean, log_variance), expected)
    assert losses.kl_divergence(torch.zeros(3, 4), torch.zeros(3, 4)).item() == 0.0


def test_kl_does_not_depend_on_the_batch_size():
    mean, log_variance = torch.randn(2, 8), torch.randn(2, 8)
    repeated = losses.kl_divergence(mean.repeat(5, 1), log_variance.repeat(5, 1))
    torch.testing.assert_close(repeated, losses.kl_divergence(mean, log_variance))


def test_age_loss_is_quadratic_near_and_linear_far():
    def loss(years: float) -> float:
        return losses.attribute_age_loss(torch.tensor([30.0 + years]), torch.tensor([30.0])).item()

    assert loss(0.0) == 0.0
    assert loss(1.0) == pytest.approx(0.5 / 5 / 100)
    assert loss(2.0) == pytest.approx(4 * loss(1.0))
    assert loss(40.0) - loss(30.0) == pytest.approx(0.1)
    assert loss(-20.0) == pytest.approx(loss(20.0))


def test_gender_loss_is_the_cross_entropy_also_under_autocast():
    p, target = torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0])
    expected = -(torch.tensor([0.9, 0.8]).log()).mean().item()
    assert losses.attribute_gender_loss(p, target).item() == pytest.approx(expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert losses.attribute_gender_loss(p, target).item() == pytest.approx(expected)


def test_latent_consistency_pulls_only_on_the_encoded_side():
    encoded, latent = torch.zeros(2, 4, requires_grad=True), torch.full((2, 4), 3.0, requires_grad=True)
    loss = losses.latent_consistency(encoded, latent)
    loss.backward()
    assert loss.item() == 3.0
    assert latent.grad is None and encoded.grad.abs().sum() > 0


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_loss_weights_must_be_finite_and_not_negative(value):
    with pytest.raises(ConfigError, match=r"LossWeights\.perceptual"):
        LossWeights(perceptual=value)
