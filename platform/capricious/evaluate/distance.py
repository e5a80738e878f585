"""How far a set of renders is from a set of real pictures: KID and Fréchet distance on named features.

Both compare pictures of the same portraits, real and rendered. So a render and its own original must never meet: they
are alike because they show one sitter, not because rendering is good. The KID leaves such pairs out of its sums; the
Fréchet distance, which has no pairs, is taken between the originals of one half and the renders of the other.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from capricious.evaluate.bootstrap import NOTHING, Interval

MIN_PICTURES = 20
"""Below so many pictures or portraits on either side no distance is given: chance alone would decide it."""

_ROWS = 2048
_Z = 1.959964
"""Of a 95 % interval under the normal distribution."""


def kernel_distance(
    real: np.ndarray, real_portrait: np.ndarray, fake: np.ndarray, fake_portrait: np.ndarray
) -> Interval:
    """Returns the KID: the unbiased squared maximum mean discrepancy with the cubic kernel (x·y/d + 1)³.

    Bińkowski et al. 2018, "Demystifying MMD GANs", section 4. They average it over random subsets of the pictures; the
    mean over all subsets there are is the sum over all pairs, which is computed here. Pairs of the same portrait are
    left out of all three terms (for pairs x_i, y_i this is Gretton et al. 2012, "A Kernel Two-Sample Test", equation
    4), so real pictures against themselves give 0 exactly. It may be a little negative. The interval comes from the
    jackknife over portraits (Arvesen 1969, "Jackknifing U-Statistics").

    Args:
        real, fake: N×D and M×D features.
        real_portrait, fake_portrait: N and M integers that say which portrait each picture is of.
    """
    portraits = np.unique(np.concatenate([real_portrait, fake_portrait]))
    if min(len(np.unique(real_portrait)), len(np.unique(fake_portrait))) < MIN_PICTURES:
        return NOTHING
    r, f = np.searchsorted(portraits, real_portrait), np.searchsorted(portraits, fake_portrait)
    sides = ((real, r, real, r, 1.0), (fake, f, fake, f, 1.0), (real, r, fake, f, -2.0))
    terms = [(_pair_sums(*side[:4], len(portraits)), side[4]) for side in sides]
    value = sum(sign * total / count for (total, count, _, _), sign in terms)
    # Without one portrait: its pairs are taken from sum and count.
    without = np.sum([sign * (total - own) / (count - pairs) for (total, count, own, pairs), sign in terms], axis=0)
    n = len(portraits)
    spread = _Z * float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return Interval(float(value), float(value) - spread, float(value) + spread, n)


def _pair_sums(
    x: np.ndarray, x_portrait: np.ndarray, y: np.ndarray, y_portrait: np.ndarray, portraits: int
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Sums the kernel over all pairs of different portraits.

    Returns:
        The sum, the number of pairs, and for each portrait the part of both in which it takes part.
    """
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    own, pairs = np.zeros(portraits), np.zeros(portraits)
    total, count = 0.0, 0.0
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = (x[rows] @ y.T / np.float32(x.shape[1]) + np.float32(1.0)) ** 3
        other = x_portrait[rows, None] != y_portrait
        kernel = np.where(other, kernel, np.float32(0.0))
        for portrait, sums, numbers in (
            (x_portrait[rows], kernel.sum(1, dtype=np.float64), other.sum(1)),
            (y_portrait, kernel.sum(0, dtype=np.float64), other.sum(0)),
        ):
            np.add.at(own, portrait, sums)
            np.add.at(pairs, portrait, numbers)
        total += float(kernel.sum(dtype=np.float64))
        count += float(other.sum())
    return total, count, own, pairs


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Returns the Fréchet distance of two Gaussians fitted to N×D and M×D features; nan with too few pictures.

    ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½ (Dowson & Landau 1982, equation 16). With Σ = XᵀX for scaled and centred
    X, the last trace is the sum of the singular values of X₁X₂ᵀ: no square root of a matrix, no regularisation, exact
    also where there are fewer pictures than features. Biased upward, the more the fewer the pictures, and the less the
    more alike the two sets are picture by picture: compare values of the same N only, of sets that share no portrait.
    """
    if min(len(real), len(fake)) < MIN_PICTURES:
        return float("nan")
    means, factors, traces = [], [], 0.0
    for features in (real, fake):
        x = np.asarray(features, np.float64)
        means.append(x.mean(0))
        x = (x - means[-1]) / np.sqrt(len(x) - 1)
        traces += float((x**2).sum())
        factors.append(linalg.qr(x, mode="r", check_finite=False)[0][: x.shape[1]] if len(x) > x.shape[1] else x)
    cross = linalg.svdvals(factors[0] @ factors[1].T).sum()
    return float(((means[0] - means[1]) ** 2).sum() + traces - 2 * cross)


def split_frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Returns frechet_distance() of P portraits and their renders, P×D features each, that no portrait enters twice.

    The originals of every other portrait are compared with the renders of the others, then the other way about; the
    mean counts. nan with fewer than 2 × MIN_PICTURES portraits.
    """
    even, odd = slice(0, None, 2), slice(1, None, 2)
    return (frechet_distance(real[even], fake[odd]) + frechet_distance(real[odd], fake[even])) / 2
