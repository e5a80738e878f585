"""Modulation by distinct patches against plain convolutions. Random weights: arithmetic, not quality."""

import pytest
import torch
from model_tools import inputs, random_labels, shaken, tiny
from torch.nn.functional import pad, unfold

from capricious.faces.label_map import CLASSES
from capricious.model import layers
from capricious.model.generator import Generator
from capricious.model.patches import OUTSIDE, PatchConvolution, distinct_patches
from capricious.model.spade import SPADE


def boxes(batch: int, size: int) -> torch.Tensor:
    """Label maps of a few rectangles, as boxes around eyes and mouth make them."""
    maps = torch.zeros(batch, size, size, dtype=torch.uint8)
    for i in range(batch):
        maps[i, i : size - 2, 3 : size // 2 + i] = 1
        maps[i, size // 2 :, size // 3 : size // 2] = 6
    return maps


LABELS = {
    "boxes": boxes(3, 16),
    "noise": random_labels(3, 16),
    "one class": torch.full((1, 8, 8), 2, dtype=torch.uint8),
    "background only": torch.zeros(2, 8, 8, dtype=torch.uint8),
    "int64": random_labels(1, 8).long(),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_patches_describe_the_surroundings_of_every_pixel(labels):
    patches = distinct_patches(labels)
    rows = patches.small[patches.large[patches.pixels]]  # B×R×R×9×9
    padded = pad(labels.double(), (2, 2, 2, 2), value=OUTSIDE)
    wanted = unfold(padded[:, None], 5).transpose(1, 2).view(*labels.shape, 5, 5)
    for y in range(3):
        for x in range(3):  # nine 3×3 patches in each 5×5
            found = rows[..., 3 * y + x, :].view(*labels.shape, 3, 3)
            inside = wanted[..., y + 1, x + 1] != OUTSIDE
            assert torch.equal(found[inside].double(), wanted[..., y : y + 3, x : x + 3][inside])
            assert (found[~inside] == OUTSIDE).all()


def test_no_patch_is_listed_twice():
    patches = distinct_patches(boxes(3, 16))
    assert len(patches.small.unique(dim=0)) == len(patches.small)
    assert len(patches.large.unique(dim=0)) == len(patches.large)
    assert set(patches.pixels.flatten().tolist()) == set(range(len(patches.large)))


def test_share_of_a_plain_map_is_that_of_its_borders():
    # Nine kinds of pixels (corners, edges, inside), and the ring outside as a tenth.
    assert distinct_patches(torch.zeros(2, 8, 8, dtype=torch.uint8)).share == 10 / 128


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_distinct_modulation_and_its_gradients_are_those_of_convolutions(labels):
    layer = shaken(SPADE(6, 5, "instance"), scale=0.2)
    plain = torch.cat(layer.modulate(layers.one_hot(labels, torch.float32)), 1)
    distinct = torch.cat(layer.modulate_distinct(distinct_patches(labels)), 1)
    torch.testing.assert_close(distinct, plain, atol=2e-6, rtol=2e-6)
    assert distinct.is_contiguous(memory_format=torch.channels_last)

    weights = [*layer.shared.parameters(), *layer.modulation.parameters()]
    back = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, weights, back)
    found = torch.autograd.grad(distinct, weights, back)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


def test_gradients_are_exact_in_double_precision():
    layer = SPADE(3, 4, "instance").double()
    labels = boxes(2, 8)
    weights = [*layer.shared.parameters(), *layer.modulation.parameters()]
    sums = [
        torch.cat(pair, 1).square().sum()
        for pair in (
            layer.modulate(layers.one_hot(labels, torch.float64)),
            layer.modulate_distinct(distinct_patches(labels)),
        )
    ]
    expected, found = (torch.autograd.grad(s, weights) for s in sums)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-14, rtol=1e-10)


@pytest.mark.parametrize("conditioning", ["layered", "concat"])
def test_generator_draws_the_same_with_patches_at_all_some_or_no_resolutions(conditioning):
    config = tiny(conditioning)
    generator = shaken(Generator(config), 0.1).eval()
    _, latent, attributes = inputs(3, config)
    labels = boxes(3, 64)
    shares = [distinct_patches(layers.shrink_labels(labels, size)).share for size in (8, 16, 32, 64)]
    assert shares == sorted(shares, reverse=True)
    with torch.no_grad():
        plain = generator(labels, latent, attributes)
        for share in (1.0, shares[2]):
            generator.distinct_share = share
            torch.testing.assert_close(generator(labels, latent, attributes), plain, atol=1e-5, rtol=1e-5)


def test_generator_takes_patches_exactly_where_the_share_allows():
    config = tiny()
    generator = Generator(config)
    labels = boxes(1, 64)
    shares = {size: distinct_patches(layers.shrink_labels(labels, size)).share for size in (8, 16, 32, 64)}
    for limit in (0.0, shares[64], shares[16], 1.0):
        generator.distinct_share = limit
        for gamma, _ in generator.modulations(labels):
            size = gamma.shape[-1]
            by_patches = gamma.stride(1) == 1  # channels last
            assert by_patches == (limit > 0 and shares[size] <= limit)


def test_modulation_under_autocast_is_close():
    layer = shaken(SPADE(6, 8, "instance"), scale=0.2)
    labels = boxes(2, 16)
    plain = torch.cat(layer.modulate(layers.one_hot(labels, torch.float32)), 1)
    with torch.autocast("cpu", torch.bfloat16):
        distinct = torch.cat(layer.modulate_distinct(distinct_patches(labels)), 1)
    assert distinct.dtype == torch.bfloat16
    torch.testing.assert_close(distinct.float(), plain, atol=0.03, rtol=0.02)


def test_patch_convolution_is_a_plain_one_on_maps():
    layer = shaken(PatchConvolution(len(CLASSES), 4))
    x = torch.randn(2, len(CLASSES), 6, 6)
    assert torch.equal(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
