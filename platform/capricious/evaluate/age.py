"""Does age obey? Requested ages against the ages that an independent estimator reads from the renders.

Every measure is one value for each portrait, so that it can be averaged, bootstrapped and compared pairwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from capricious.evaluate.bootstrap import Interval, mean_interval, statistic_interval


@dataclass(frozen=True, eq=False)
class AgeMeasures:
    """One value for each of P portraits, from its sweep; nan where the estimates do not allow one.

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
        estimated: P×A years.

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
        spearman=np.divide(ranks @ order, length, out=np.zeros(len(length)), where=length > 0),
        monotone=(np.diff(estimated, axis=1) > 0).mean(1),
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

    A judge that reads old faces too young has a slope below 1; perfect renders would show the same slope.
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
