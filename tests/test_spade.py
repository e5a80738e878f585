"""SPADE against an independent implementation, and the residual block around it. Random weights: wiring only."""

import pytest
import torch
from model_tools import random_labels, shaken
from torch.nn.functional import conv2d, one_hot

from capricious.faces.label_map import CLASSES, resize_label_map
from capricious.model import layers
from capricious.model.spade import SPADE, SPADEResBlock

K = len(CLASSES)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_spade_is_the_papers_formula(norm):
    # Equations 1 to 3 of the paper, with γ and β as two separate convolutions and the statistics by hand.
    layer = shaken(SPADE(6, 5, norm))
    x, m = torch.randn(3, 6, 8, 8), random_labels(3, 8)
    axes = (0, 2, 3) if norm == "batch" else (2, 3)
    normal = (x - x.mean(axes, keepdim=True)) / (x.var(axes, keepdim=True, unbiased=False) + 1e-5).sqrt()
    h = conv2d(one_hot(m.long(), K).permute(0, 3, 1, 2).float(), layer.shared.weight, layer.shared.bias, padding=1)
    h = h.clamp(min=0)
    weight, bias = layer.modulation.weight, layer.modulation.bias
    gamma = conv2d(h, weight[:6], bias[:6], padding=1)
    beta = conv2d(h, weight[6:], bias[6:], padding=1)

    found = layer(x, layer.modulate(layers.one_hot(m, x.dtype)))

    torch.testing.assert_close(found, normal * (1 + gamma) + beta, atol=1e-5, rtol=1e-5)


def test_batch_norm_of_a_spade_layer_uses_running_statistics_in_eval_mode():
    layer = SPADE(4, 3, "batch")
    for _ in range(200):
        layer(5.0 + 2.0 * torch.randn(8, 4, 4, 4), (torch.zeros(()), torch.zeros(())))
    x = torch.randn(2, 4, 4, 4)
    found = layer.eval()(x, (torch.zeros(()), torch.zeros(())))
    torch.testing.assert_close(found, (x - 5.0) / 2.0, atol=0.3, rtol=0)


def test_attribute_affine_scales_and_shifts_after_the_modulation():
    plain, layer = SPADE(4, 3, "instance"), SPADE(4, 3, "instance", embedding=2)
    layer.load_state_dict(plain.state_dict(), strict=False)
    x, e = torch.randn(2, 4, 8, 8), torch.randn(2, 2)
    modulation = plain.modulate(layers.one_hot(random_labels(2, 8), x.dtype))
    y = plain(x, modulation)
    assert torch.equal(layer(x, modulation, e), y)  # starts as plain SPADE

    shaken(layer.affine)
    scale, shift = (e @ layer.affine.weight.T + layer.affine.bias)[:, :, None, None].split(4, 1)
    torch.testing.assert_close(layer(x, modulation, e), y * (1 + scale) + shift, atol=1e-5, rtol=1e-5)


def test_gamma_and_beta_are_initialised_as_two_convolutions():
    layer = SPADE(64, 32, "batch")
    expected = 0.02 * (2 / (9 * 32 + 9 * 64)) ** 0.5  # Xavier: gain · √(2 / (fan in + fan out))
    for half in layer.modulation.weight.chunk(2):
        assert half.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("inputs", "outputs", "convolutions"), [(8, 8, 2), (8, 4, 3), (4, 8, 3)])
def test_block_changes_channels_and_learns_its_skip_only_where_needed(inputs, outputs, convolutions):
    block = SPADEResBlock(inputs, outputs, 8, hidden=3, norm="instance", embedding=0, spectral=True, bias=False)
    labels = layers.one_hot(random_labels(2, 8), torch.float32)
    y = block(torch.randn(2, inputs, 8, 8), iter([s.modulate(labels) for s in block.spades]))
    assert y.shape == (2, outputs, 8, 8)
    assert len(block.spades) == convolutions
    names = [n for n, _ in block.named_modules() if n.startswith("conv_") and "." not in n]
    assert len(names) == convolutions


def test_block_without_learned_skip_adds_to_its_input():
    block = SPADEResBlock(4, 4, 8, hidden=3, norm="instance", embedding=0, spectral=False, bias=False)
    torch.nn.init.zeros_(block.conv_2.weight)
    x = torch.randn(2, 4, 8, 8)
    labels = layers.one_hot(random_labels(2, 8), torch.float32)
    assert torch.equal(block(x, iter([s.modulate(labels) for s in block.spades])), x)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_labels_shrink_as_in_the_faces_room(size):
    m = random_labels(2, 64)
    expected = [resize_label_map(one.numpy(), size) for one in m]
    for found, wanted in zip(layers.shrink_labels(m, size), expected, strict=True):
        assert (found.numpy() == wanted).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_one_hot_agrees_with_torch(dtype):
    m = random_labels(2, 8).to(dtype)
    expected = one_hot(m.long(), K).permute(0, 3, 1, 2).float()
    assert torch.equal(layers.one_hot(m, torch.float32), expected)


def test_spectral_norm_makes_the_largest_singular_value_one():
    layer = layers.convolution(6, 9, 3, padding=1, spectral=True)
    for _ in range(50):
        layer(torch.randn(1, 6, 4, 4))
    sigma = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
    assert sigma == pytest.approx(1.0, abs=1e-3)
