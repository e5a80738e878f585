"""A perceptual hash holds for copies of a picture and differs for others."""

import io
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut

from capricious.faces.perceptual_hash import BITS, SAME_PICTURE, hamming, hamming_many, perceptual_hash

CROP = np.ascontiguousarray(astronaut()[0:256, 96:352])


def resized(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_each_bit_is_the_sign_of_one_dct_coefficient():
    image = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    bits = np.unpackbits(np.frombuffer(perceptual_hash(np.stack([image] * 3, -1)), np.uint8)).reshape(16, 16)
    at = (2 * np.arange(32) + 1) * np.pi / 64
    for v in range(1, 17):
        for u in range(1, 17):
            coefficient = (np.cos(v * at)[:, None] * np.cos(u * at) * image).sum()  # DCT-II by its definition
            assert bits[v - 1, u - 1] == (coefficient > 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: as_jpeg(image, 60),
        lambda image: resized(image, 128),
        lambda image: (image * 0.9).astype(np.uint8),
        lambda image: resized(image[3:-3, 3:-3], 256),
        lambda image: np.stack([image.mean(-1).astype(np.uint8)] * 3, -1),
    ],
    ids=["jpeg", "half the size", "darker", "cropped", "grey"],
)
def test_a_copy_is_within_the_threshold(change):
    assert hamming(perceptual_hash(CROP), perceptual_hash(change(CROP))) <= SAME_PICTURE


@pytest.mark.parametrize(
    "other",
    [CROP[:, ::-1], CROP[::-1], astronaut()[200:456, 200:456]],
    ids=["mirrored", "upside down", "another picture"],
)
def test_another_picture_is_far_beyond_the_threshold(other):
    assert hamming(perceptual_hash(CROP), perceptual_hash(np.ascontiguousarray(other))) > 2 * SAME_PICTURE


def test_a_mirrored_picture_turns_the_odd_columns():
    """cos(u·π·(1 − x)) = (−1)^u · cos(u·π·x): mirroring turns the signs of odd u and keeps those of even u."""
    straight, mirrored = (
        np.unpackbits(np.frombuffer(perceptual_hash(np.ascontiguousarray(image)), np.uint8)).reshape(16, 16)
        for image in (CROP, CROP[:, ::-1])
    )
    odd = np.arange(16) % 2 == 0  # u = 1, 3, 5, …
    assert (straight[:, odd] != mirrored[:, odd]).all()
    assert (straight[:, ~odd] == mirrored[:, ~odd]).all()


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_the_hamming_distance_counts_bits(a, b):
    expected = bin(int.from_bytes(a) ^ int.from_bytes(b)).count("1")
    assert hamming(a, b) == hamming(b, a) == expected
    many = hamming_many(np.frombuffer(a, np.uint8)[None], np.frombuffer(b + a, np.uint8).reshape(2, 32))
    assert many.tolist() == [expected, 0]


def test_it_is_fast_enough_to_be_free():
    crop = resized(CROP, 128)
    perceptual_hash(crop)
    best = min(_seconds(lambda: perceptual_hash(crop)) for _ in range(50))
    assert best < 0.001
    assert len(perceptual_hash(crop)) * 8 == BITS


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(wrong):
    with pytest.raises(ValueError, match="H×W×3 uint8, found"):
        perceptual_hash(wrong)


def test_hashes_of_two_lengths_are_refused():
    with pytest.raises(ValueError, match="found: 32 and 8 bytes"):
        hamming(bytes(32), bytes(8))
