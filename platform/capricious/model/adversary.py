"""An adversary that looks for age and gender in the style code, so that the encoder learns to leave them out.

Fader Networks (arXiv:1706.00409) with the gradient reversal of Ganin & Lempitsky (arXiv:1409.7495): the adversary
learns to read the attributes, and the encoder, through the reversed gradient, to make that impossible. What the style
code does not carry, the generator has to take from the attribute vector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, leaky_relu

from capricious.faces.attributes import VECTOR_FIELDS
from capricious.model.conditioning import AGE, AGE_KNOWN
from capricious.model.layers import SLOPE

GENDER, GENDER_KNOWN = VECTOR_FIELDS.index("gender"), VECTOR_FIELDS.index("known:gender")
DECADES = 10
"""Classes of age: 0…9, …, 90 and more."""
HIDDEN = 128


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def reverse_gradient(x: Tensor) -> Tensor:
    """Returns x; its gradient changes sign on the way back."""
    reversed_: Tensor = _Reversal.apply(x)  # type: ignore[no-untyped-call]
    return reversed_


class AttributeAdversary(nn.Module):
    """Style code → logits of DECADES age classes and of male, behind a gradient reversal.

    It is trained by the same loss and optimizer as the encoder. The loss's weight sets how hard the encoder is
    pushed; Adam's steps of the adversary itself hardly depend on it.
    """

    def __init__(self, latent: int):
        super().__init__()
        # torch's own initialisation: a gain of 0.02 would leave a perceptron of three layers without a signal.
        self.layers = nn.ModuleList([nn.Linear(latent, HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.logits = nn.Linear(HIDDEN, DECADES + 1)

    def forward(self, latent: Tensor) -> Tensor:
        """Returns B×(DECADES + 1) logits, the last one that of male, of B×latent style codes."""
        x = reverse_gradient(latent)
        for layer in self.layers:
            x = leaky_relu(layer(x), SLOPE)
        logits: Tensor = self.logits(x)
        return logits


def adversary_loss(logits: Tensor, attributes: Tensor) -> Tensor:
    """Cross entropy of the age class plus that of the gender, 0 for sitters of whom it is not known; means over all.

    Over all, not over the known: so two halves of a batch, each in a process of its own, learn what the whole does.

    Args:
        logits: B×(DECADES + 1), of `AttributeAdversary`.
        attributes: B×VECTOR_SIZE, the sitters' own.
    """
    logits = logits.float()
    decade = (attributes[:, AGE] * DECADES).long().clamp(0, DECADES - 1)
    age = cross_entropy(logits[:, :DECADES], decade, reduction="none")
    gender = binary_cross_entropy_with_logits(logits[:, DECADES], attributes[:, GENDER], reduction="none")
    return (age * attributes[:, AGE_KNOWN] + gender * attributes[:, GENDER_KNOWN]).mean()
