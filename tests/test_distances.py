"""KID, Fréchet distance, PSNR and SSIM against closed forms and independent libraries."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.ndimage import gaussian_filter
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from capricious.evaluate.distance import frechet_distance, kernel_distance, split_frechet_distance
from capricious.evaluate.similarity import psnr, ssim


def gaussian(count: int, mean: float, scale: np.ndarray, seed: int) -> np.ndarray:
    return mean + np.random.default_rng(seed).normal(size=(count, len(scale))) * scale


def test_frechet_is_the_closed_form_of_two_gaussians():
    one, other = np.linspace(0.5, 2.0, 6), np.linspace(1.5, 0.2, 6)
    expected = 6 * 0.7**2 + ((one - other) ** 2).sum()  # of diagonal covariances
    found = frechet_distance(gaussian(200_000, 0.0, one, 0), gaussian(200_000, 0.7, other, 1))
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("real", "fake", "dimensions"), [(500, 400, 40), (60, 50, 200), (300, 50, 100)])
def test_frechet_is_that_of_the_square_root_of_a_matrix(real, fake, dimensions):
    random = np.random.default_rng(2)
    mix = random.normal(size=(dimensions, dimensions)) / math.sqrt(dimensions)
    x, y = random.normal(size=(real, dimensions)) @ mix, random.normal(size=(fake, dimensions)) @ mix.T + 0.3
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = linalg.eigh(a)  # linalg.sqrtm is not exact where there are fewer pictures than dimensions
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    middle = linalg.eigvalsh(root @ b @ root)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * np.sqrt(np.clip(middle, 0, None)).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)
    if min(real, fake) > dimensions:
        moments = (torch.from_numpy(values) for values in (x.mean(0), a, y.mean(0), b))
        assert frechet_distance(x, y) == pytest.approx(_compute_fid(*moments).item(), rel=1e-5)


def test_kid_of_separate_portraits_is_that_of_torchmetrics():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(70, 12)), random.normal(0.3, 1.2, size=(70, 12))
    expected = poly_mmd(torch.from_numpy(x), torch.from_numpy(y)).item()
    found = kernel_distance(x, np.arange(70), y, 70 + np.arange(70))
    assert found.value == pytest.approx(expected, rel=1e-4)


def test_kid_of_portraits_with_several_pictures_is_that_of_all_pairs():
    random = np.random.default_rng(9)
    x, y = random.normal(size=(30, 4)), random.normal(size=(90, 4))
    of_x, of_y = np.arange(30), random.permutation(np.repeat(np.arange(30), 3))

    def mean(a, of_a, b, of_b):
        return np.mean(
            [(p @ q / 4 + 1) ** 3 for p, i in zip(a, of_a, strict=True) for q, j in zip(b, of_b, strict=True) if i != j]
        )

    expected = mean(x, of_x, x, of_x) + mean(y, of_y, y, of_y) - 2 * mean(x, of_x, y, of_y)
    assert kernel_distance(x, of_x, y, of_y).value == pytest.approx(expected, abs=1e-5)


def test_kid_is_the_mean_over_subsets():
    random = np.random.default_rng(4)
    x, y = random.normal(size=(60, 8)), random.normal(0.5, 1.0, size=(60, 8))
    subsets = []
    for _ in range(400):
        a, b = random.choice(60, 30, False), random.choice(60, 30, False)
        subsets.append(kernel_distance(x[a], a, y[b], 60 + b).value)
    whole = kernel_distance(x, np.arange(60), y, 60 + np.arange(60)).value
    assert np.mean(subsets) == pytest.approx(whole, abs=3 * np.std(subsets) / 20)


def test_kid_of_a_shift_is_the_closed_form():
    """In one dimension, of N(0, 1) and N(μ, 1): moments of (xy + 1)³ = x³y³ + 3x²y² + 3xy + 1."""
    mean = 0.8
    moments = [np.array([0.0, 1.0, 0.0]), np.array([mean, 1 + mean**2, 3 * mean + mean**3])]
    weights = np.array([3.0, 3.0, 1.0])
    expected = (weights * (moments[0] - moments[1]) ** 2).sum()
    n = 6000
    x, y = gaussian(n, 0.0, np.ones(1), 5), gaussian(n, mean, np.ones(1), 6)
    found = kernel_distance(x, np.arange(n), y, n + np.arange(n))
    assert found.low < expected < found.high and found.value == pytest.approx(expected, rel=0.1)


def test_pictures_never_meet_their_own_portrait():
    x = np.random.default_rng(7).normal(size=(40, 5))
    at = np.arange(40)
    same = kernel_distance(x, at, x, at)
    assert same.value == pytest.approx(0.0, abs=1e-6)
    assert same.high - same.low == pytest.approx(0.0, abs=1e-6)
    # Sets drawn alike: 0 lies in the interval about as often as it says, although pictures of a portrait are alike.
    random, inside = np.random.default_rng(8), 0
    for _ in range(200):
        sitters = random.normal(size=(50, 1, 6))
        real = (sitters + 0.3 * random.normal(size=sitters.shape))[:, 0]
        fake = (sitters + 0.3 * random.normal(size=(50, 3, 6))).reshape(-1, 6)
        found = kernel_distance(real, np.arange(50), fake, np.repeat(np.arange(50), 3))
        inside += found.low < 0.0 < found.high
    assert inside > 170


def test_renders_are_no_better_by_frechet_for_showing_the_sitters_they_are_compared_with():
    random = np.random.default_rng(10)
    sitters, others = random.normal(size=(2, 300, 50))
    own = split_frechet_distance(sitters, sitters + 0.2 * random.normal(size=sitters.shape))
    apart = split_frechet_distance(sitters, others + 0.2 * random.normal(size=sitters.shape))
    assert own == pytest.approx(apart, rel=0.1)
    # As far as chance alone puts two sets of 150 apart.
    assert split_frechet_distance(sitters, sitters) == pytest.approx(
        frechet_distance(sitters[:150], others[:150]), rel=0.1
    )


def test_few_pictures_give_no_distance():
    x = np.zeros((19, 4))
    assert math.isnan(split_frechet_distance(np.zeros((39, 4)), np.ones((39, 4))))
    assert split_frechet_distance(np.zeros((40, 4)), np.ones((40, 4))) == pytest.approx(4.0)
    assert math.isnan(kernel_distance(x, np.arange(19), x, np.arange(19)).value)
    assert math.isnan(frechet_distance(x, x))


def test_psnr_and_ssim():
    one = astronaut()
    other = np.clip(one + np.random.default_rng(0).normal(0, 12, one.shape), 0, 255).astype(np.uint8)
    assert psnr(one, other) == pytest.approx(peak_signal_noise_ratio(one, other))
    assert psnr(one, one) == math.inf and ssim(one, one) == pytest.approx(1.0)
    assert ssim(one, other) == pytest.approx(ssim_by_the_paper(one, other), abs=1e-3)


def ssim_by_the_paper(one: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, with the window of section III.C."""

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (1.5, 1.5, 0), truncate=3.5)

    x, y = one.astype(np.float64), other.astype(np.float64)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(similarity[5:-5, 5:-5].mean())  # where the whole window lies in the picture
