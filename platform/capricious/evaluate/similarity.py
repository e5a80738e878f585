"""How like a reconstruction is to its original: PSNR and SSIM of pictures in 0…255.

The perceptual distance beside them is `model.perceptual`.
"""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity


def psnr(original: np.ndarray, picture: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio in dB of two uint8 pictures of one shape; infinite for equal ones."""
    error = np.mean((original.astype(np.float64) - picture.astype(np.float64)) ** 2)
    return float(10 * np.log10(255.0**2 / error)) if error else float("inf")


def ssim(original: np.ndarray, picture: np.ndarray) -> float:
    """Returns the structural similarity of two H×W×3 uint8 pictures, −1…1, mean over channels and pixels.

    Wang et al. 2004, section III: Gaussian window of σ 1.5, population covariances, K = 0.01 and 0.03.
    """
    return float(
        structural_similarity(
            original,
            picture,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
