"""How old real people look to an estimator: what a picture at a requested age should be read as.

An estimator's mean reading of people of eighty is not eighty: it learnt of a world where most are thirty, and in doubt
says so. Asked to be read as eighty, a generator must draw somebody who looks older than people of eighty do: lines are
burnt in, and faces become masks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from capricious.errors import ConfigError
from capricious.training.batches import BatchSource
from capricious.training.estimator_view import NUMBERS, estimator_view

log = logging.getLogger(__name__)

STEP, LAST = 4, 100
"""Years from one knot of a curve to the next, and of the last."""

WIDTH = 4.0
"""Standard deviation, in years, of the window over which readings are averaged."""

PER_DECADE = 80
"""Portraits of known age that are read of each decade; the means are then known to a year or so."""

FEWEST = 16
"""Portraits around a knot without which it keeps the reading of its neighbour: nobody knows better."""

CHUNK = 32


@dataclass(frozen=True, eq=False)
class AgeCurve:
    """An estimator's mean reading of real people, piecewise linear over their age, never falling.

    Attributes:
        readings: years, one for each of the ages 0, STEP, …, LAST; float32.
    """

    readings: Tensor

    def __call__(self, age: Tensor) -> Tensor:
        """Returns the reading for each of B ages in years."""
        place = (age / STEP).clamp(0.0, len(self.readings) - 1.0)
        before = place.floor().long().clamp(max=len(self.readings) - 2)
        return torch.lerp(self.readings[before], self.readings[before + 1], (place - before).to(self.readings.dtype))


def fit(ages: np.ndarray, readings: np.ndarray) -> AgeCurve:
    """Averages N readings over a Gaussian window around each knot (Nadaraya-Watson).

    Args:
        ages: N true ages in years, as many of each decade as there are.
        readings: N years.

    Raises:
        ConfigError: nowhere are there FEWEST portraits around a knot.
    """
    knots = np.arange(0, LAST + STEP, STEP)
    weights = np.exp(-0.5 * ((knots[:, None] - ages) / WIDTH) ** 2)
    known = weights.sum(1) >= FEWEST
    if not known.any():
        raise ConfigError(
            f"training.swap.calibrated needs some hundred portraits whose age is a label, found: {len(ages)}; "
            "leave it out, or add labelled portraits"
        )
    means = weights[known] @ readings / weights[known].sum(1)
    # np.interp holds the outermost values beyond them.
    curve = np.maximum.accumulate(np.interp(knots, knots[known], means))
    return AgeCurve(torch.from_numpy(curve.astype(np.float32)))


@torch.no_grad()
def age_curves(estimators: tuple[nn.Module, ...], source: BatchSource, *, views: bool) -> tuple[AgeCurve, ...]:
    """Shows each estimator real portraits, evenly of all decades, and fits its curve.

    Args:
        estimators: picture → (age in years, p_male).
        source: of the portraits that are trained on.
        views: show them as swapped pictures will be shown (training/estimator_view.py).

    Returns:
        A curve for each estimator, on the device of the source; the same in every process.

    Raises:
        ConfigError: too few portraits have a label for their age.
    """
    chosen = _of_known_age(source)
    readings: list[list[Tensor]] = [[] for _ in estimators]
    numbers = torch.rand(len(chosen), NUMBERS, generator=torch.Generator().manual_seed(0))
    ages = np.array([age for _, age in chosen])
    for start in range(0, len(chosen), CHUNK):
        part = slice(start, start + CHUNK)
        batch = source.take(np.array([index for index, _ in chosen[part]]))
        image = batch.image * batch.inside.unsqueeze(1)  # as the step blanks what was invented
        if views:
            image = estimator_view(image, numbers[part].to(image.device))
        for found, estimator in zip(readings, estimators, strict=True):
            found.append(estimator(image)[0].float().cpu())
    curves = []
    for estimator, found in zip(estimators, readings, strict=True):
        curve = fit(ages, torch.cat(found).numpy() if found else np.zeros(0))
        told = ", ".join(f"{age}: {curve(torch.tensor(float(age))):.0f}" for age in range(10, 90, 10))
        log.info("%s reads %d real people of known age as %s", type(estimator).__name__, len(ages), told)
        curves.append(AgeCurve(curve.readings.to(source.device)))
    return tuple(curves)


def _of_known_age(source: BatchSource) -> list[tuple[int, float]]:
    """Returns indices and ages, at most PER_DECADE of each decade, spread evenly over the dataset."""
    decades: dict[int, list[tuple[int, float]]] = {}
    for index in range(len(source.dataset)):
        portrait: Any = source.dataset.portrait(index)
        age = portrait.attributes.age
        if age is not None and portrait.attribute_source.get("age") == "label":
            decades.setdefault(int(age // 10), []).append((index, age))
    chosen: list[tuple[int, float]] = []
    for _, members in sorted(decades.items()):
        at = np.linspace(0, len(members) - 1, min(PER_DECADE, len(members))).round().astype(int)
        chosen += [members[i] for i in at]
    return chosen
