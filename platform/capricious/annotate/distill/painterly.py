"""Augmentation that takes photographs some of the way to paintings: brushwork, canvas, craquelure, varnish, age.

The teacher labels the clean picture and the student must say the same of the worn one.
"""

from __future__ import annotations

import os

import cv2
import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask PyPI for news at every import
import albumentations as A


class Brushwork(A.ImageOnlyTransform):
    """Kuwahara's filter: each pixel takes the mean of the calmest of four windows around it, as strokes do."""

    def get_params(self) -> dict[str, int]:
        return {"radius": int(self.random_generator.integers(2, 6))}

    def apply(self, img: np.ndarray, radius: int, **_: object) -> np.ndarray:
        size = (radius + 1, radius + 1)
        pixels = img.astype(np.float32)
        luma = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY).astype(np.float32)
        best, calmest = pixels, np.full(luma.shape, np.inf, np.float32)
        for anchor in ((0, 0), (0, radius), (radius, 0), (radius, radius)):
            mean = cv2.boxFilter(luma, -1, size, anchor=anchor)
            variance = cv2.boxFilter(luma * luma, -1, size, anchor=anchor) - mean * mean
            colour = cv2.boxFilter(pixels, -1, size, anchor=anchor)
            calmer = variance < calmest
            best = np.where(calmer[..., None], colour, best)
            calmest = np.where(calmer, variance, calmest)
        return _to_uint8(best)


class Craquelure(A.ImageOnlyTransform):
    """Cracks of old paint: the zero lines of smooth noise, at two scales, darker or lighter than the paint."""

    def apply(self, img: np.ndarray, **_: object) -> np.ndarray:
        draw, (height, width) = self.random_generator, img.shape[:2]
        strength = np.zeros((height, width), np.float32)
        for cells in (int(draw.integers(8, 20)), int(draw.integers(20, 48))):
            noise = _smooth_noise(draw, cells, height, width)
            strength += np.clip(1.0 - np.abs(noise) / draw.uniform(0.03, 0.08), 0.0, 1.0)
        patchy = np.clip(0.5 + _smooth_noise(draw, 3, height, width), 0.0, 1.0)  # nowhere is all of a picture cracked
        tone = draw.choice([draw.uniform(0, 60), draw.uniform(150, 220)], p=[0.8, 0.2])
        opacity = np.clip(strength, 0.0, 1.0) * patchy * draw.uniform(0.2, 0.7)
        return _to_uint8(img + (tone - img) * opacity[..., None])


class Canvas(A.ImageOnlyTransform):
    """The weave of the canvas: two thread waves at right angles, irregular, as a change of brightness."""

    def apply(self, img: np.ndarray, **_: object) -> np.ndarray:
        draw, (height, width) = self.random_generator, img.shape[:2]
        period, depth = draw.uniform(2.2, 6.0), draw.uniform(0.03, 0.15)
        wander = 1.5 * _smooth_noise(draw, 6, height, width)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        weave = np.sin(2 * np.pi * (x + wander) / period) + np.sin(2 * np.pi * (y + wander) / period)
        grain = draw.normal(0.0, 0.5, (height, width))
        return _to_uint8(img * (1.0 + depth * (0.5 * weave + grain))[..., None])


class Illumination(A.ImageOnlyTransform):
    """Light from one side and a dark ground: a smooth change of brightness over the picture."""

    def apply(self, img: np.ndarray, **_: object) -> np.ndarray:
        draw, (height, width) = self.random_generator, img.shape[:2]
        light = 1.0 + draw.uniform(0.2, 0.7) * _smooth_noise(draw, 2, height, width)
        return _to_uint8(img * light[..., None])


def _smooth_noise(draw: np.random.Generator, cells: int, height: int, width: int) -> np.ndarray:
    """Returns float32 noise of mean 0 in about ±1 that varies over 1/cells of the picture."""
    coarse = draw.uniform(-1.0, 1.0, (cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def painterly(worn_share: float) -> A.Compose:
    """Returns the augmentation of a crop and its soft labels (H×W×3 uint8 both, as `image` and `mask`).

    Seed it with `set_random_seed` before each call for results that can be repeated.

    Args:
        worn_share: probability that a copy is worn, 0…1; the others are only mirrored and moved.
    """
    moved = [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(0.8, 1.25),
            rotate=(-20, 20),
            translate_percent=(-0.06, 0.06),
            shear=(-5, 5),
            border_mode=cv2.BORDER_REFLECT_101,
            mask_interpolation=cv2.INTER_LINEAR,
            p=0.8,
        ),
    ]
    worn = [
        A.OneOf([Brushwork(p=1), A.MedianBlur(blur_limit=(3, 9), p=1), A.Posterize(num_bits=(3, 5), p=1)], p=0.3),
        A.OneOf([Craquelure(), Canvas(), A.Compose([Craquelure(p=1), Canvas(p=1)])], p=0.3),
        A.OneOf(
            [
                A.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.5, hue=0.06),
                A.RGBShift(30, 30, 30),
                A.PlanckianJitter(),
                A.ToSepia(),
                A.ToGray(),
            ],
            p=0.6,
        ),
        A.OneOf(
            [Illumination(), A.RandomGamma((60, 240)), A.RandomBrightnessContrast(0.4, 0.4), A.RandomToneCurve()],
            p=0.5,
        ),
        A.OneOf(
            [A.GaussianBlur(sigma_limit=(0.5, 3.0)), A.Downscale((0.25, 0.7)), A.MotionBlur(blur_limit=(3, 9))],
            p=0.3,
        ),
        A.OneOf([A.GaussNoise(std_range=(0.02, 0.1)), A.ISONoise(), A.MultiplicativeNoise()], p=0.25),
        A.ImageCompression(quality_range=(25, 90), p=0.3),
    ]
    return A.Compose([*moved, A.Sequential(worn, p=worn_share)])
