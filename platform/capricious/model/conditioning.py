"""How the attribute vector is presented to a network that is to act on it at every layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from capricious.faces.attributes import VECTOR_FIELDS, VECTOR_SIZE
from capricious.model.layers import SLOPE, linear

AGE = VECTOR_FIELDS.index("age/100")
AGE_KNOWN = VECTOR_FIELDS.index("known:age")

WAVES = 5
"""Number of sine/cosine pairs. The longest period is 200 years, so that no two ages in 0…100 coincide;
each next one is half as long, down to 12.5 years."""

DECADES = 10
"""Number of thermometer entries; entry k rises from 0 to 1 while the age goes from 10·k to 10·(k+1) years."""

AGE_FEATURES = 2 * WAVES + DECADES


def age_features(attributes: Tensor) -> Tensor:
    """Returns B×AGE_FEATURES of order one for a B×VECTOR_SIZE attribute vector; 0 where the age is unknown.

    As one number in 0…1, age is 0.02 % of the variance that the generator's first layer sees
    (docs/model.md). Sines make near ages distinguishable, the thermometer gives an order.
    """
    age = attributes[:, AGE : AGE + 1]
    octaves = 2.0 ** torch.arange(WAVES, device=age.device, dtype=age.dtype)
    phase = math.pi * age * octaves
    decade = torch.arange(DECADES, device=age.device, dtype=age.dtype)
    thermometer = (10.0 * age - decade).clamp(0.0, 1.0)
    features = torch.cat([phase.sin(), phase.cos(), thermometer], 1)
    return features * attributes[:, AGE_KNOWN : AGE_KNOWN + 1]


class AttributeEmbedding(nn.Module):
    """Age features ⊕ attribute vector → two-layer perceptron → B×size embedding."""

    def __init__(self, size: int):
        super().__init__()
        self.hidden = linear(AGE_FEATURES + VECTOR_SIZE, size)
        self.output = linear(size, size)
        # A gain of 0.02 in two layers without normalisation would leave nothing of the condition.
        for layer in (self.hidden, self.output):
            nn.init.kaiming_uniform_(layer.weight, SLOPE, nonlinearity="leaky_relu")

    def forward(self, attributes: Tensor) -> Tensor:
        features = torch.cat([age_features(attributes), attributes], 1)
        hidden = nn.functional.leaky_relu(self.hidden(features), SLOPE)
        return nn.functional.leaky_relu(self.output(hidden), SLOPE)
