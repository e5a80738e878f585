"""Augmentation of the discriminator's pairs, views for the estimator, painterly portraits."""

import numpy as np
import pytest
import torch
from model_tools import random_labels
from skimage.data import astronaut

from capricious.training import estimator_view, painterly, pair_augment
from capricious.training.config import PairAugmentConfig
from capricious.training.estimator_view import estimator_view as view
from capricious.training.painterly import painterly as paint
from capricious.training.pair_augment import OUTSIDE, augment_pairs

SIZE = 32
ALL = PairAugmentConfig()


def numbers(batch: int, count: int = pair_augment.NUMBERS, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, count, generator=torch.Generator().manual_seed(seed))


def only(**on: bool) -> PairAugmentConfig:
    return PairAugmentConfig(**{name: on.get(name, False) for name in ("flip", "colour", "translation", "cutout")})


def pictures_of(labels: torch.Tensor) -> torch.Tensor:
    """Pictures from which their label map can be read: label 0 … 6 as the brightness 0.1 … 0.7, outside as 0."""
    return ((labels.float() + 1) / 10 * (labels != OUTSIDE))[:, None].expand(-1, 3, -1, -1)


# --- pairs


@pytest.mark.parametrize(
    "moves", [only(flip=True), only(translation=True), only(cutout=True), PairAugmentConfig(colour=False)]
)
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_label_map_and_picture_stay_together(moves, probability):
    labels = random_labels(16, SIZE)
    moved, image = augment_pairs(labels, pictures_of(labels), numbers(16), probability, moves)
    torch.testing.assert_close(image, pictures_of(moved))
    changed = (moved != labels).flatten(1).any(1)
    assert changed.sum() > 0 and (probability == 1.0 or not changed.all())


def test_translation_and_cutout_by_hand():
    labels = random_labels(1, 8)
    drawn = torch.zeros(1, pair_augment.NUMBERS)
    drawn[0, 8:10] = torch.tensor([1.0, 0.0])  # down by an eighth, left by an eighth
    moved, _ = augment_pairs(labels, pictures_of(labels), drawn, 1.0, only(translation=True))
    assert torch.equal(moved[0, 1:, :7].long(), labels[0, :7, 1:].long())
    assert (moved[0, 0] == OUTSIDE).all() and (moved[0, :, 7] == OUTSIDE).all()

    drawn[0, 10:12] = 0.5
    cut, image = augment_pairs(labels, pictures_of(labels), drawn, 1.0, only(cutout=True))
    hole = cut[0] == OUTSIDE
    assert hole.sum() == 9 and hole[3:6, 3:6].all() and (image[0, :, 3:6, 3:6] == 0).all()


def test_colour_leaves_the_label_map_and_middle_values_change_nothing():
    labels, image = random_labels(4, SIZE), torch.rand(4, 3, SIZE, SIZE) * 2 - 1
    moved, changed = augment_pairs(labels, image, numbers(4), 1.0, only(colour=True))
    assert torch.equal(moved, labels) and (changed - image).abs().amax((1, 2, 3)).min() > 0.01
    middle = torch.zeros(4, pair_augment.NUMBERS)
    middle[:, 4:] = 0.5
    torch.testing.assert_close(augment_pairs(labels, image, middle, 1.0, only(colour=True))[1], image)


def test_probability_zero_is_the_identity_and_is_met_on_average():
    labels, image = random_labels(8, SIZE), torch.rand(8, 3, SIZE, SIZE)
    same = augment_pairs(labels, image, numbers(8), 0.0, ALL)
    assert torch.equal(same[0].long(), labels.long())
    torch.testing.assert_close(same[1], image)
    many = torch.zeros(2000, 8, 8, dtype=torch.uint8)
    cut, _ = augment_pairs(many, pictures_of(many), numbers(2000), 0.3, only(cutout=True))
    share = (cut == OUTSIDE).flatten(1).any(1).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.04)


def test_each_sample_depends_on_its_own_numbers_alone():
    labels, image, drawn = random_labels(6, SIZE), torch.rand(6, 3, SIZE, SIZE), numbers(6)
    whole = augment_pairs(labels, image, drawn, 0.7, ALL)
    part = augment_pairs(labels[2:4], image[2:4], drawn[2:4], 0.7, ALL)
    assert torch.equal(whole[0][2:4], part[0])
    torch.testing.assert_close(whole[1][2:4], part[1])


def test_gradients_pass_through_the_pairs_to_what_is_still_seen():
    labels = random_labels(4, SIZE)
    image = torch.rand(4, 3, SIZE, SIZE, requires_grad=True)
    moved, changed = augment_pairs(labels, image, numbers(4), 1.0, only(translation=True, cutout=True))
    changed.sum().backward()
    assert (image.grad.flatten(1).sum(1) == 3 * (moved != OUTSIDE).flatten(1).sum(1)).all()


def test_gradients_agree_with_differences():
    labels = random_labels(2, 8)
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: augment_pairs(labels, x, numbers(2).double(), 0.8, ALL)[1], (image,))


# --- views for the estimator


def photo() -> torch.Tensor:
    return torch.from_numpy(astronaut()[0:256:2, 140:396:2].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def test_the_middle_view_without_blur_is_the_picture():
    drawn = torch.full((1, estimator_view.NUMBERS), 0.5)
    drawn[:, 4] = 0.0
    torch.testing.assert_close(view(photo(), drawn), photo(), atol=1e-4, rtol=0)


def test_views_differ_but_show_the_same():
    pictures = photo().expand(6, -1, -1, -1)
    seen = view(pictures, numbers(6, estimator_view.NUMBERS))
    small = torch.nn.functional.avg_pool2d(seen, 16)
    wanted = torch.nn.functional.avg_pool2d(pictures, 16)
    for i in range(6):
        assert (seen[i] - seen[i - 1]).abs().mean() > 0.02
        assert torch.corrcoef(torch.stack([small[i].flatten(), wanted[i].flatten()]))[0, 1] > 0.9


def test_blurred_views_show_no_checkerboard():
    board = ((torch.arange(SIZE)[:, None] + torch.arange(SIZE)) % 2 * 2.0 - 1.0).expand(1, 3, -1, -1)
    drawn = torch.full((1, estimator_view.NUMBERS), 0.5)
    contrast = []
    for blur in (0.0, 1.0):
        drawn[:, 4] = blur
        contrast.append(view(board, drawn)[..., 4:-4, 4:-4].std().item())
    assert contrast[1] < 0.05 * contrast[0]


def test_gradients_pass_through_the_views():
    x = photo().requires_grad_()
    view(x, numbers(1, estimator_view.NUMBERS)).sum().backward()
    assert (x.grad != 0).float().mean() > 0.9


# --- painterly portraits


def test_painterly_changes_its_share_and_stays_in_range():
    pictures = photo().expand(64, -1, -1, -1)
    drawn = numbers(64, painterly.NUMBERS)
    painted = paint(pictures, drawn, 0.5)
    untouched = (painted == pictures).flatten(1).all(1)
    assert torch.equal(untouched | ~(drawn[:, 0] < 0.5), untouched)
    assert untouched.float().mean().item() == pytest.approx(0.5, abs=0.2)
    assert painted.min() >= -1.0 and painted.max() <= 1.0 and painted.isfinite().all()
    assert torch.equal(paint(pictures, drawn, 0.0), pictures)


def test_every_painterly_step_shows_and_keeps_the_face():
    pictures = photo()
    coarse = torch.nn.functional.avg_pool2d(pictures, 16).flatten()
    for step in range(6):
        drawn = torch.ones(1, painterly.NUMBERS)
        drawn[0, 0], drawn[0, 1 + step], drawn[0, 7:] = 0.0, 0.0, 0.8
        painted = paint(pictures, drawn, 1.0)
        assert (painted - pictures).abs().mean() > 0.005, step
        after = torch.nn.functional.avg_pool2d(painted, 16).flatten()
        assert torch.corrcoef(torch.stack([coarse, after]))[0, 1] > 0.85, step


def test_brushwork_keeps_edges_and_flattens_noise():
    random = np.random.default_rng(0)
    edge = np.where(np.arange(SIZE) < SIZE // 2, -0.5, 0.5) + 0.05 * random.standard_normal((SIZE, SIZE))
    picture = torch.from_numpy(edge).float().expand(1, 3, -1, -1)
    drawn = torch.ones(1, painterly.NUMBERS)
    drawn[0, :2] = 0.0
    painted = paint(picture, drawn, 1.0)[0, 0]
    flat = (slice(3, -3), slice(3, SIZE // 2 - 3))
    assert painted[flat].std() < 0.6 * picture[0, 0][flat].std()
    jump = painted[:, SIZE // 2].mean() - painted[:, SIZE // 2 - 1].mean()
    assert jump > 0.9
