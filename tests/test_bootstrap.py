"""Intervals and paired tests against their definitions and against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from capricious.evaluate.bootstrap import mean_interval, paired_test, statistic_interval


def test_the_interval_of_a_mean_is_about_that_of_student():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    assert found.n == 400


def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(1)
    found = [mean_interval(random.exponential(1.0, 80), replicates=500) for _ in range(300)]
    covered = np.mean([interval.low < 1.0 < interval.high for interval in found])
    assert 0.89 < covered < 0.98


def test_any_statistic_and_the_mean_agree():
    values = np.random.default_rng(2).normal(size=150)
    one, other = mean_interval(values), statistic_interval(lambda at: float(values[at].mean()), 150, replicates=2000)
    assert one.value == pytest.approx(other.value)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.02)


def test_portraits_without_a_value_are_left_out():
    found = mean_interval(np.array([1.0, math.nan, 3.0]))
    assert (found.value, found.n) == (2.0, 2)
    nothing, one = mean_interval(np.array([math.nan])), mean_interval(np.array([5.0]))
    assert math.isnan(nothing.value) and nothing.n == 0
    assert (one.value, one.n) == (5.0, 1) and math.isnan(one.low)


def test_the_paired_test_agrees_with_scipy():
    random = np.random.default_rng(3)
    first = random.normal(0.0, 1.0, 60)
    second = first + random.normal(0.12, 0.5, 60)
    found = paired_test(first, second)

    def mean(difference: np.ndarray, axis: int = -1) -> np.ndarray:
        return difference.mean(axis)

    reference = stats.permutation_test(
        (second - first,), mean, permutation_type="samples", vectorized=True, n_resamples=10_000, rng=random
    )
    assert found.difference.value == pytest.approx((second - first).mean())
    assert found.p == pytest.approx(reference.pvalue, abs=0.02)


def test_no_difference_is_found_where_there_is_none_and_one_where_there_is():
    random = np.random.default_rng(4)
    by_chance = [paired_test(a, a + random.normal(0, 1, 40), flips=500).p for a in random.normal(0, 1, (150, 40))]
    assert 0.01 < np.mean(np.array(by_chance) < 0.05) < 0.10
    values = random.normal(0, 1, 40)
    assert paired_test(values, values + 1.0).p < 0.001
    assert paired_test(values, values).p == 1.0
    assert math.isnan(paired_test(values[:1], values[1:2]).p)
