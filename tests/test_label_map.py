"""The seven-class label map against a face drawn by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capricious.faces.label_map import (
    BACKGROUND,
    CLASSES,
    EYEBROWS,
    EYES,
    HAIR,
    MOUTH,
    NOSE,
    PALETTE,
    SKIN,
    colorize,
    label_map,
    resize_label_map,
)

SIZE = 100


def landmarks() -> np.ndarray:
    """Each part's landmarks span a box of known corners; the eye centres are 40 apart."""
    points = np.full((68, 2), 50.0)
    for indices, (left, top, right, bottom) in {
        (17, 22): (20, 20, 40, 24),
        (22, 27): (60, 20, 80, 24),
        (36, 42): (24, 30, 36, 36),
        (42, 48): (64, 30, 76, 36),
        (27, 36): (44, 34, 56, 56),
        (48, 68): (36, 64, 64, 76),
    }.items():
        count = indices[1] - indices[0]
        corners = np.array([[left, top], [right, bottom], [left, bottom], [right, top]], float)
        points[indices[0] : indices[1]] = np.resize(corners, (count, 2))
    # Six points cannot be four corners evenly; mirror the rest so that the eyes' means are their centres.
    for first, left, right in ((36, 24, 36), (42, 64, 76)):
        points[first + 4], points[first + 5] = (left, 33), (right, 33)
    return points


def parsing() -> np.ndarray:
    classes = np.full((SIZE, SIZE), BACKGROUND, np.uint8)
    classes[5:90, 10:90] = HAIR
    classes[18:88, 16:84] = SKIN
    return classes


def test_boxes_cover_their_landmarks_and_nothing_else() -> None:
    made = label_map(parsing(), landmarks(), margin=0.05)  # 0.05 × 40 = 2 pixels on every side
    expected = parsing()
    for part, (left, top, right, bottom) in [
        (EYEBROWS, (20, 20, 40, 24)),
        (EYEBROWS, (60, 20, 80, 24)),
        (EYES, (24, 30, 36, 36)),
        (EYES, (64, 30, 76, 36)),
        (NOSE, (44, 34, 56, 56)),
        (MOUTH, (36, 64, 64, 76)),
    ]:
        expected[top - 2 : bottom + 2, left - 2 : right + 2] = part
    assert np.array_equal(made, expected)
    assert made.dtype == np.uint8


def test_later_parts_cover_earlier_ones() -> None:
    points = landmarks()
    points[27:36] = points[48:68].mean(0)
    points[27], points[28] = (36, 64), (64, 76)  # the nose where the mouth is
    made = label_map(parsing(), points)
    assert made[70, 50] == MOUTH and NOSE not in made


def test_parts_outside_of_the_crop_are_clipped() -> None:
    made = label_map(parsing(), landmarks() + np.array([45, 0]), margin=0.05)
    assert made.shape == (SIZE, SIZE)
    assert (made[40:54, 87:] == NOSE).all()  # cut through by the edge
    assert (made[28:38, 67:83] == EYES).all() and (made == EYES).sum() == 10 * 16  # the other eye is outside
    assert np.array_equal(label_map(parsing(), landmarks() + 1000), parsing())


def test_the_parsing_is_not_modified() -> None:
    classes = parsing()
    label_map(classes, landmarks())
    assert np.array_equal(classes, parsing())


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="68×2"):
        label_map(parsing(), np.zeros((67, 2)))
    with pytest.raises(ValueError, match="background 0, skin 1 and hair 2"):
        label_map(np.full((4, 4), 3, np.uint8), landmarks())
    with pytest.raises(ValueError, match="square"):
        resize_label_map(np.zeros((4, 5), np.uint8), 8)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_resizing_up_and_down_again_loses_nothing(size: int, factor: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, len(CLASSES), (size, size)).astype(np.uint8)
    large = resize_label_map(labels, size * factor)
    assert np.array_equal(large, labels.repeat(factor, 0).repeat(factor, 1))
    assert np.array_equal(resize_label_map(large, size), labels)


def test_colorize_shows_every_class_in_its_own_colour() -> None:
    picture = colorize(np.arange(len(CLASSES), dtype=np.uint8)[None])
    assert picture.shape == (1, len(CLASSES), 3) and picture.dtype == np.uint8
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == len(CLASSES)
    assert np.array_equal(picture[0], PALETTE)
