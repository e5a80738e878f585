"""What estimators read of real people: fitted in closed forms, on made-up portraits and in a training step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training_step import draws, game, source
from torch import nn
from training_tools import NO_WEIGHTS, Brightness, Listed, made_up_portraits, tiny_config

from capricious.errors import ConfigError
from capricious.training import judges
from capricious.training.age_curve import FEWEST, LAST, STEP, AgeCurve, age_curves, fit
from capricious.training.batches import BatchSource
from capricious.training.config import SwapConfig
from capricious.training.judges import Judges, calibrated
from capricious.training.step import GanStep


def labelled_portraits(count: int, labelled: bool = True) -> list:
    """Made-up portraits; all have an age, which is a label or an estimate."""
    found = []
    for i, portrait in enumerate(made_up_portraits(count)):
        attributes = replace(portrait.attributes, age=float(20 + i % 40))
        kind = {"age": "label" if labelled else "estimated"}
        found.append(replace(portrait, attributes=attributes, attribute_source=kind))
    return found


def of(portraits: list) -> BatchSource:
    return BatchSource(Listed(portraits), resolution=64, batch_size=4, seed=3)


def test_a_curve_goes_through_its_knots_and_is_straight_between():
    curve = AgeCurve(torch.arange(LAST // STEP + 1, dtype=torch.float32).square())
    ages = torch.tensor([0.0, STEP, 1.5 * STEP, LAST, LAST + 50.0, -5.0])
    last = (LAST / STEP) ** 2
    torch.testing.assert_close(curve(ages), torch.tensor([0.0, 1.0, 2.5, last, last, 0.0]))


def test_a_straight_judge_has_a_straight_curve():
    ages = np.linspace(0.0, 100.0, 2001)
    curve = fit(ages, 12.0 + 0.6 * ages)
    asked = torch.tensor([20.0, 43.0, 80.0])
    torch.testing.assert_close(curve(asked), 12.0 + 0.6 * asked, atol=0.05, rtol=0)


def test_a_curve_never_falls_and_holds_where_nobody_is_known():
    ages = np.repeat(np.arange(20.0, 61.0), 10)
    curve = fit(ages, np.where(ages > 50, 30.0, ages))
    assert (curve.readings.diff() >= 0).all()
    assert curve(torch.tensor([0.0]))[0] == curve.readings[4] and curve(torch.tensor([95.0]))[0] == curve.readings[-1]
    assert 40.0 < curve.readings[-1] < 50.0  # the window rounds the peak


def test_noise_is_averaged_away():
    random = np.random.default_rng(0)
    ages = random.uniform(0, 90, 800)
    curve = fit(ages, 10 + 0.5 * ages + random.normal(0, 9.0, 800))
    asked = torch.arange(10.0, 81.0, 10.0)
    assert (curve(asked) - (10 + 0.5 * asked)).abs().max() < 3.0


def test_too_few_labels_are_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"calibrated needs some hundred portraits whose age is a label, found: 9;"):
        fit(np.full(9, 30.0), np.full(9, 30.0))
    with pytest.raises(ConfigError, match="found: 0"):
        age_curves((Brightness(),), of(labelled_portraits(40, labelled=False)), views=False)


@pytest.mark.parametrize("views", [False, True])
def test_real_portraits_are_read_the_same_each_time(views):
    data = of(labelled_portraits(80))
    one, again = (age_curves((Brightness(), Brightness()), data, views=views) for _ in range(2))
    assert len(one) == 2
    for first, second in zip(one, again, strict=True):
        assert torch.equal(first.readings, second.readings)
    read = Brightness()(data.take(np.arange(80)).image)[0]
    assert read.min() < one[0].readings.min() <= one[0].readings.max() < read.max() + 5.0


class Same(nn.Module):
    """Stands in for an estimator that takes everybody for 45."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 45.0 + 0.0 * image.mean((1, 2, 3)), torch.full((len(image),), 0.5)


def test_a_calibrated_step_asks_for_what_is_read_of_real_people():
    """Who reads 45 of everybody can be pleased by anybody, and has no say."""
    swap = SwapConfig(probability=1.0, calibrated=True)
    config = tiny_config(swap=swap, loss=replace(NO_WEIGHTS, age=1.0))
    step = game(config)
    found = []
    asked, as_real = Judges(estimators=(Same(),)), of(labelled_portraits(80))
    for using in (asked, calibrated(asked, config, as_real)):
        log = GanStep(config, step.autoencoder, step.discriminator, using)(source().batch(0), draws(config, swap=True))
        found.append(log["age"].item())
    assert found[0] > 0.01 and found[1] == pytest.approx(0.0, abs=1e-6)


def test_judges_are_left_as_they_are_unless_asked_to_be_calibrated():
    using = Judges(estimators=(Same(),))
    assert calibrated(using, tiny_config(), of(labelled_portraits(4))) is using
    wanted = using.wanted(torch.tensor([10.0, 80.0]))
    assert len(wanted) == 1 and wanted[0].tolist() == [10.0, 80.0]
    assert judges.Judges().wanted(torch.tensor([10.0])) == ()


def test_fewest_is_reached_by_the_portraits_of_a_year_or_two():
    ages = np.full(round(FEWEST) + 1, 40.0)
    assert fit(ages, ages)(torch.tensor([40.0])).item() == 40.0
