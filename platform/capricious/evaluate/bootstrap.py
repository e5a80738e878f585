"""How sure a figure is: bootstrap intervals and paired tests over portraits.

The portrait is the unit that is drawn, never the picture: ten ages of one sitter are not ten observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

REPLICATES = 2000
LEVEL = 0.95
_SEED = 0


@dataclass(frozen=True)
class Interval:
    """A figure and what it may be as well.

    Attributes:
        value: the figure; nan where nothing was measured.
        low, high: of its 95 % interval; nan where fewer than two portraits tell.
        n: number of portraits that it rests on.
    """

    value: float
    low: float
    high: float
    n: int


NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


def mean_interval(values: np.ndarray, replicates: int = REPLICATES) -> Interval:
    """Returns the mean of one value for each portrait, with the percentile interval of its bootstrap.

    Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.

    Args:
        values: P floats; nan where a portrait has none, which leaves it out.
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return Interval(float(known[0]), float("nan"), float("nan"), 1) if len(known) else NOTHING
    drawn = _draws(len(known), replicates) @ known / len(known)
    return Interval(float(known.mean()), *_percentiles(drawn), len(known))


def statistic_interval(statistic: Callable[[np.ndarray], float], portraits: int, replicates: int = 400) -> Interval:
    """As mean_interval(), for any statistic of some portraits.

    Args:
        statistic: takes indices of portraits, some of them several times, and returns a figure or nan.
        portraits: how many there are.
    """
    if portraits == 0:
        return NOTHING
    value = statistic(np.arange(portraits))
    if portraits < 2:
        return Interval(value, float("nan"), float("nan"), portraits)
    random = np.random.default_rng(_SEED)
    drawn = np.array([statistic(random.integers(0, portraits, portraits)) for _ in range(replicates)])
    drawn = drawn[~np.isnan(drawn)]
    low, high = _percentiles(drawn) if len(drawn) else (float("nan"), float("nan"))
    return Interval(value, low, high, portraits)


@dataclass(frozen=True)
class PairedTest:
    """The difference of two subjects on the same portraits.

    Attributes:
        difference: mean of second minus first, with its interval.
        p: two-sided, of the hypothesis that the two are exchangeable; nan with fewer than two portraits.
    """

    difference: Interval
    p: float


def paired_test(first: np.ndarray, second: np.ndarray, flips: int = 10_000) -> PairedTest:
    """Compares one value for each portrait under two subjects.

    The sign-flip permutation test (Fisher 1935, "The Design of Experiments", section 21): if the two are exchangeable,
    each difference is as likely to have the other sign. p counts the identity among the flips, so it is never 0.

    Args:
        first, second: P floats, of the same portraits in the same order; nan where there is none.
    """
    difference = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    difference = difference[~np.isnan(difference)]
    interval = mean_interval(difference)
    if len(difference) < 2:
        return PairedTest(interval, float("nan"))
    random = np.random.default_rng(_SEED)
    observed = abs(difference.sum())
    extreme = 0
    for start in range(0, flips, 1000):
        signs = random.integers(0, 2, (min(1000, flips - start), len(difference)), np.int8) * 2.0 - 1.0
        # A hair less, so that rounding does not decide whether a tie is as extreme.
        extreme += int((np.abs(signs @ difference) >= observed * (1 - 1e-12)).sum())
    return PairedTest(interval, (extreme + 1) / (flips + 1))


@lru_cache(maxsize=4)  # the figures of a group of sitters share theirs
def _draws(portraits: int, replicates: int) -> np.ndarray:
    """Returns how often each replicate draws each portrait, replicates×P float64."""
    even = np.full(portraits, 1 / portraits)
    return np.random.default_rng(_SEED).multinomial(portraits, even, replicates).astype(np.float64)


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)
