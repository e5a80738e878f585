"""Measures of a sweep against closed forms and scipy."""

import numpy as np
import pytest
from scipy import stats

from capricious.evaluate.age import age_measures, estimator_error, r_squared, real_people

AGES = np.arange(5.0, 100.0, 10.0)


def test_a_sweep_that_obeys_and_one_that_ignores():
    found = age_measures(AGES, np.stack([AGES, np.full(len(AGES), 40.0), AGES[::-1], 0.5 * AGES + 20]))
    assert found.slope == pytest.approx([1.0, 0.0, -1.0, 0.5])
    assert found.mae == pytest.approx([0.0, 26.0, 50.0, 13.0])
    assert found.bias == pytest.approx([0.0, -10.0, 0.0, -5.0])
    assert found.spearman == pytest.approx([1.0, 0.0, -1.0, 1.0])
    assert found.monotone == pytest.approx([1.0, 0.0, 0.0, 1.0])


def test_measures_agree_with_scipy_ties_included():
    random = np.random.default_rng(0)
    estimated = np.rint(0.6 * AGES + random.normal(0, 12, (50, len(AGES))))
    found = age_measures(AGES, estimated)
    assert found.slope == pytest.approx([stats.linregress(AGES, row).slope for row in estimated])
    assert found.spearman == pytest.approx([stats.spearmanr(AGES, row).statistic for row in estimated])
    line = stats.linregress(np.tile(AGES, 50), estimated.ravel())
    assert r_squared(AGES, estimated) == pytest.approx(line.rvalue**2)
    # All sweeps ask for the same ages, so the mean slope is the slope of all renders together.
    assert found.slope.mean() == pytest.approx(line.slope)


def test_a_sweep_without_all_its_estimates_has_no_measure():
    missing = np.stack([AGES, AGES, np.full(len(AGES), np.nan)])
    missing[1, 3] = np.nan
    for values in vars(age_measures(AGES, missing)).values():
        assert np.isnan(values).tolist() == [False, True, True]


def test_a_constant_estimate_explains_nothing():
    assert np.isnan(r_squared(AGES, np.full((4, len(AGES)), 30.0)))


@pytest.mark.parametrize(
    ("ages", "shape", "message"), [(AGES, (3, 9), "P×A"), (AGES[:1], (3, 1), "A ≥ 2"), (AGES[::-1], (3, 10), "ascend")]
)
def test_sweeps_that_make_no_sense_are_refused(ages, shape, message):
    with pytest.raises(ValueError, match=message):
        age_measures(ages, np.zeros(shape))


def test_the_error_on_real_pictures():
    found = estimator_error(np.array([20.0, 40.0]), np.array([24.0, 38.0]))
    assert (found["mae"].value, found["bias"].value, found["slope"].value) == (3.0, 1.0, 0.7)
    same = estimator_error(np.array([30.0, 30.0]), np.array([24.0, 38.0]))
    assert np.isnan(same["slope"].value) and np.isnan(same["slope"].low)


def test_real_people_of_a_judge_without_error_are_of_the_age_itself_however_few_are_older():
    """Ages as in collections of faces: most are about 30, children and the old are few."""
    labelled = np.clip(np.random.default_rng(0).gamma(6, 6, 1000), 1, 100)
    ages = np.arange(8.0, 81.0, 8.0)
    found = real_people(ages, labelled, labelled)
    known = ~np.isnan(found.readings)
    assert known.sum() >= 8
    assert found.readings[known] == pytest.approx(ages[known]) and found.errors[known] == pytest.approx(0.0)
    assert found.slope == pytest.approx(1.0) and found.mae == pytest.approx(0.0)
    assert found.gap(np.tile(ages, (5, 1))) == pytest.approx(0.0)


def test_real_people_are_read_from_the_weighted_line_about_an_age():
    random = np.random.default_rng(1)
    labelled = random.gamma(6, 6, 300)
    estimated = 30 + 0.5 * (labelled - 30) - 0.004 * (labelled - 30) ** 2 + random.normal(0, 6, 300)
    found = real_people(np.array([20.0, 45.0]), labelled, estimated)
    for age, reading, error in zip(found.ages, found.readings, found.errors, strict=True):
        root = np.exp(-0.25 * ((labelled - age) / 4) ** 2)  # np.polyfit squares its weights
        assert reading == pytest.approx(np.polyval(np.polyfit(labelled, estimated, 1, w=root), age))
        assert error == pytest.approx(np.polyval(np.polyfit(labelled, np.abs(estimated - labelled), 1, w=root), age))


def test_what_real_people_score_is_a_mean_over_the_ages_that_are_known():
    labelled = np.array([20.0] * 6 + [60.0] * 5)
    found = real_people(np.array([20.0, 40.0, 60.0]), labelled, np.array([22.0] * 6 + [50.0] * 5))
    assert found.readings[[0, 2]] == pytest.approx([22.0, 50.0]) and np.isnan(found.readings[1])
    assert found.slope == pytest.approx(28.0 / 40.0)
    assert found.mae == pytest.approx((2.0 + 10.0) / 2)
    assert found.gap(np.array([[20.0, 0.0, 51.0], [24.0, 0.0, 47.0]])) == pytest.approx((0.0 + 1.0) / 2)


def test_people_of_one_other_age_tell_nothing_however_many():
    found = real_people(np.array([24.0]), np.full(1000, 20.0), np.full(1000, 22.0))
    assert np.isnan(found.readings).all()


def test_of_ages_that_nobody_has_nothing_is_known():
    found = real_people(np.array([10.0, 90.0]), np.array([50.0] * 9), np.array([48.0] * 9))
    assert np.isnan([found.slope, found.mae, found.gap(np.zeros((2, 2)))]).all()
