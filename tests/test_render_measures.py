"""Measures of masks, identity and leakage against figures by hand."""

import math

import numpy as np
import pytest

from capricious.evaluate.identity import bin_names, change_bins, threshold_at
from capricious.evaluate.leakage import background_change, flips, roughness
from capricious.evaluate.masks import part_iou, region_iou


def test_the_iou_of_regions_and_parts_by_hand():
    given = np.array([[0, 0, 1, 1], [2, 2, 3, 3]], np.uint8)
    found = np.array([[0, 1, 1, 1], [2, 2, 3, 5]], np.uint8)
    # Open are the first row and the hair: background 1 of 2, skin 2 of 3, hair 2 of 2.
    assert region_iou(given, found) == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    # Eyes 1 of 2, a nose that was not given 0 of 1.
    assert part_iou(given, found) == pytest.approx((1 / 2 + 0) / 2)
    assert region_iou(given, given) == part_iou(given, given) == 1.0
    assert math.isnan(part_iou(given[:1], given[:1]))


def test_changes_of_age_are_binned():
    bins = change_bins(np.array([20.0, 30.0, 80.0]), np.array([21.0, math.nan, 70.0]))
    assert bins.tolist() == [[0, 0, 4], [-1, -1, -1], [4, 4, 1]]
    assert bin_names() == ["0–10", "10–20", "20–30", "30–40", "40 or more"]


def test_the_threshold_lets_pass_the_stated_share_of_strangers():
    vectors = np.random.default_rng(0).normal(size=(400, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    threshold, pairs = threshold_at(vectors, 0.01)
    cosines = [float(a @ b) for i, a in enumerate(vectors) for b in vectors[:i]]
    assert pairs == len(cosines) == 400 * 399 // 2
    assert np.mean(np.array(cosines) > threshold) == pytest.approx(0.01, abs=1e-4)
    assert threshold_at(vectors[:1])[1] == 0


def test_the_background_is_compared_where_the_map_has_it():
    labels = np.ones((4, 4), np.uint8)
    labels[0] = 0
    reference = np.full((4, 4, 3), 100, np.uint8)
    moved = reference.copy()
    moved[0] += 10
    moved[2] = 0  # the face may change as it likes
    assert background_change(np.stack([reference, moved]), reference, labels).tolist() == [0.0, 10.0]
    assert np.isnan(background_change(moved[None], reference, np.ones_like(labels))).all()


def test_an_even_sweep_has_roughness_one():
    even = np.stack([np.full((2, 2, 3), 10 * i, np.uint8) for i in range(5)])
    jump = even.copy()
    jump[4] = 100
    assert roughness(even) == 1.0
    assert roughness(jump) == pytest.approx(70 / 25)
    assert math.isnan(roughness(even[:1])) and math.isnan(roughness(even[[0, 0, 0]]))


def test_flips_count_what_is_known():
    own = np.array([1.0, 0.0, math.nan])
    found = np.array([[1, 0, 1, 0], [0, math.nan, 0, 1], [1, 1, 1, 1]], float)
    assert flips(own, found)[:2] == pytest.approx([0.5, 1 / 3])
    assert math.isnan(flips(own, found)[2])
