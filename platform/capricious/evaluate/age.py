"""Does age obey? Requested ages against the ages that an independent estimator reads from the renders.

Every measure is one value for each portrait, so that it can be averaged, bootstrapped and compared pairwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from capricious.evaluate.bootstrap import Interval, mean_interval, statistic_interval

WINDOW = 4.0
"""Standard deviation, in years, of the window over which real people count as of one age."""

FEWEST = 3.0
"""Too few real people are of an age where they tell less of it than so many of exactly that age would."""


@dataclass(frozen=True, eq=False)
class AgeMeasures:
    """One value for each of P portraits, from its sweep; nan where an estimate is missing.

    Attributes:
        mae: mean |estimated − requested|, years.
        bias: mean of estimated − requested, years.
        slope: least-squares slope of estimated over requested: 1 obeys, 0 ignores.
        spearman: rank correlation of requested and estimated, −1…1; 0 where all estimates are equal.
        monotone: share of adjacent steps of the request at which the estimate rises, 0…1.
    """

    mae: np.ndarray
    bias: np.ndarray
    slope: np.ndarray
    spearman: np.ndarray
    monotone: np.ndarray


def age_measures(requested: np.ndarray, estimated: np.ndarray) -> AgeMeasures:
    """Measures the sweeps of P portraits over the same A ages.

    Args:
        requested: A years, ascending, at least two.
        estimated: P×A years, nan where unknown.

    Raises:
        ValueError: shapes do not fit, or the requested ages do not ascend.
    """
    requested, estimated = np.asarray(requested, np.float64), np.asarray(estimated, np.float64)
    if requested.ndim != 1 or len(requested) < 2 or estimated.shape[1:] != requested.shape:
        raise ValueError(f"estimated must be P×A for A ≥ 2 requested ages, found: {estimated.shape}, {requested.shape}")
    if not (np.diff(requested) > 0).all():
        raise ValueError(f"requested ages must ascend, found: {requested.tolist()}")
    error = estimated - requested
    centred = requested - requested.mean()
    ranks = rankdata(estimated, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    order = np.arange(len(requested)) - (len(requested) - 1) / 2
    length = np.sqrt((ranks**2).sum(1) * (order**2).sum())
    return AgeMeasures(
        mae=np.abs(error).mean(1),
        bias=error.mean(1),
        slope=estimated @ centred / (centred**2).sum(),
        spearman=np.divide(ranks @ order, length, out=np.zeros(len(length)), where=length != 0),
        monotone=np.where(np.isnan(estimated).any(1), np.nan, (np.diff(estimated, axis=1) > 0).mean(1)),
    )


def r_squared(requested: np.ndarray, estimated: np.ndarray) -> float:
    """Returns the share of the variance of all P×A estimates that a line over the A requested ages explains.

    nan where all estimates are equal.
    """
    x = np.broadcast_to(requested, estimated.shape).ravel()
    y = estimated.ravel()
    if len(y) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def estimator_error(labelled: np.ndarray, estimated: np.ndarray) -> dict[str, Interval]:
    """Returns "mae", "bias" and "slope" (estimated over true age) of an estimator on N real pictures of known age.

    A judge that reads old faces too young has a slope below 1, and perfect renders one of about that; see
    real_people() for what they would show at the ages that were asked for.
    """
    labelled, estimated = np.asarray(labelled, np.float64), np.asarray(estimated, np.float64)

    def slope(at: np.ndarray) -> float:
        centred = labelled[at] - labelled[at].mean()
        return float(estimated[at] @ centred / (centred**2).sum()) if centred.any() else float("nan")

    error = estimated - labelled
    return {
        "mae": mean_interval(np.abs(error)),
        "bias": mean_interval(error),
        "slope": statistic_interval(slope, len(labelled)),
    }


@dataclass(frozen=True, eq=False)
class RealPeople:
    """What a judge reads of real people of A ages: what it would read of perfect renders.

    Attributes:
        ages: A years.
        readings: the mean reading of people of each age; nan where too few of about that age are known.
        errors: the mean |reading − true age|, likewise.
    """

    ages: np.ndarray
    readings: np.ndarray
    errors: np.ndarray

    @property
    def slope(self) -> float:
        """Least-squares slope of the readings over those ages at which they are known; nan for fewer than two."""
        known = ~np.isnan(self.readings)
        if known.sum() < 2:
            return float("nan")
        return float(np.polyfit(self.ages[known], self.readings[known], 1)[0])

    @property
    def mae(self) -> float:
        """Mean of the errors; nan where none is known."""
        known = ~np.isnan(self.errors)
        return float(self.errors[known].mean()) if known.any() else float("nan")

    def gap(self, estimated: np.ndarray) -> float:
        """Returns by how many years the mean readings of P×A renders are from those of real people, on average."""
        distance = np.abs(estimated.mean(0) - self.readings)
        known = ~np.isnan(distance)
        return float(distance[known].mean()) if known.any() else float("nan")


def real_people(ages: np.ndarray, labelled: np.ndarray, estimated: np.ndarray) -> RealPeople:
    """Says what a judge reads of people of each of A ages, from its readings of N real people of known age.

    Local linear regression (Fan & Gijbels 1996, "Local Polynomial Modelling and Its Applications", section 2.3): a
    line is fitted to those about an age, weighted by a Gaussian window of WINDOW, and read at the age itself. Their
    mean would not do: where the old are few, those about an age are younger than it.
    """
    ages = np.asarray(ages, np.float64)
    distance = labelled - ages[:, None]
    weights = np.exp(-0.5 * (distance / WINDOW) ** 2)
    first, second = (weights * distance).sum(1), (weights * distance**2).sum(1)
    tilt = np.divide(first, second, out=np.zeros(len(ages)), where=second > 0)
    # The line's height at the age is a mean under these weights. Their sum is its precision, in people of that age:
    # all of them where they lie around it evenly, none where they share another age and a line could turn about it.
    weights *= 1 - tilt[:, None] * distance
    people = weights.sum(1)

    def at_the_age(values: np.ndarray) -> np.ndarray:
        return np.divide(weights @ values, people, out=np.full(len(ages), np.nan), where=people >= FEWEST)

    return RealPeople(ages, at_the_age(estimated), at_the_age(np.abs(estimated - labelled)))
