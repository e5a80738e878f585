"""The adversary on the style code: reversed gradients, and its loss in closed form."""

import math

import pytest
import torch

from capricious.faces.attributes import Attributes
from capricious.model.adversary import DECADES, AttributeAdversary, adversary_loss, reverse_gradient


def vectors(*sitters: Attributes) -> torch.Tensor:
    return torch.stack([torch.from_numpy(sitter.vector()) for sitter in sitters])


def test_reversal_keeps_the_value_and_turns_the_gradient():
    x = torch.randn(3, requires_grad=True)
    y = reverse_gradient(x)
    assert torch.equal(y, x)
    (2.0 * y).sum().backward()
    assert x.grad.tolist() == [-2.0] * 3


def test_adversary_learns_forwards_and_the_encoder_backwards():
    torch.manual_seed(0)
    adversary, latent = AttributeAdversary(4), torch.randn(6, 4, requires_grad=True)
    attributes = vectors(*[Attributes(age=10.0 * i, gender=i % 2) for i in range(6)])
    loss = adversary_loss(adversary(latent), attributes)
    loss.backward()
    with torch.no_grad():
        better = [p - 0.01 * p.grad for p in adversary.parameters()]
        worse_code = latent - 0.01 * latent.grad
        assert adversary_loss(adversary(worse_code), attributes) > loss
        for parameter, value in zip(adversary.parameters(), better, strict=True):
            parameter.copy_(value)
        assert adversary_loss(adversary(latent), attributes) < loss


def test_adversary_loss_in_closed_form():
    logits = torch.zeros(4, DECADES + 1)
    logits[:, 3], logits[:, DECADES] = 2.0, 1.0
    attributes = vectors(Attributes(age=34.0), Attributes(gender=1.0), Attributes(), Attributes(age=35.0, gender=0.0))
    age = -math.log(math.exp(2.0) / (math.exp(2.0) + DECADES - 1))
    gender = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(1.0))) / 2
    known = 0.5  # of half of the sitters is the age known, and of half the gender
    assert adversary_loss(logits, attributes).item() == pytest.approx(known * (age + gender), rel=1e-5)
    halves = [adversary_loss(logits[part], attributes[part]).item() for part in (slice(3), slice(3, 4))]
    assert adversary_loss(logits, attributes).item() == pytest.approx(0.75 * halves[0] + 0.25 * halves[1])


def test_unknown_attributes_are_no_loss_and_great_ages_the_last_class():
    logits = torch.randn(2, DECADES + 1, requires_grad=True)
    loss = adversary_loss(logits, vectors(Attributes(), Attributes()))
    loss.backward()
    assert loss == 0.0 and logits.grad.abs().max() == 0.0
    old = torch.zeros(1, DECADES + 1)
    old[0, DECADES - 1] = 50.0
    assert adversary_loss(old, vectors(Attributes(age=104.0))).item() == pytest.approx(0.0, abs=1e-6)
