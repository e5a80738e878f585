"""How often each portrait is shown, so that rare ages (and the rarer gender at an age) are not drowned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from capricious.faces.attributes import Attributes

Balance = Literal["none", "age", "age-gender"]

LIMIT = 8.0
"""A portrait of a rare kind is shown at most this many times as often as one of the commonest: a dozen centenarians
shown without end would be learnt by heart."""


def balanced_weights(attributes: Sequence[Attributes], balance: Balance, limit: float = LIMIT) -> np.ndarray | None:
    """Returns relative frequencies that show every kind of sitter equally often, up to `limit`; None for "none".

    A kind is a decade of age, or a decade and a gender: in most collections the old are mostly men, or the young
    mostly women, and a network takes the one for the other. Unknown age and unknown gender are kinds of their own.
    """
    if balance == "none":
        return None
    kinds = [_decade(a) if balance == "age" else (_decade(a), _gender(a)) for a in attributes]
    _, which, counts = np.unique(np.array(kinds), axis=0, return_inverse=True, return_counts=True)
    return np.minimum(counts.max() / counts, limit)[which.reshape(-1)]


def _decade(attributes: Attributes) -> int:
    return -1 if attributes.age is None else int(attributes.age // 10)


def _gender(attributes: Attributes) -> int:
    return -1 if attributes.gender is None else round(attributes.gender)
