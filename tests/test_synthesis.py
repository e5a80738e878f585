"""The fast path of a sweep equals the plain one."""

import numpy as np
import pytest
import torch
from model_tools import inputs, shaken, tiny
from torch import nn

from capricious.model.generator import Generator, GeneratorConfig
from capricious.render.synthesis import Synthesis, segments_of, winograd_size
from capricious.render.winograd import SIZES, WinogradConvolution


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "outputs", "side", "bias"), [(5, 7, 8, True), (64, 32, 16, False)])
@torch.inference_mode()
def test_winograd_equals_the_convolution(size, channels, outputs, side, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(channels, outputs, 3, padding=1, bias=bias)
    x = torch.randn(3, channels, side, side).contiguous(memory_format=torch.channels_last)
    expected = nn.functional.conv2d(
        x.double(), convolution.weight.double(), None if not bias else convolution.bias.double(), padding=1
    )
    found = WinogradConvolution(convolution, size)(x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-6 * (1 if size == 2 else 10)


def test_winograd_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="stride 1"):
        WinogradConvolution(nn.Conv2d(1, 1, 3, stride=2, padding=1), 2)
    with pytest.raises(ValueError, match="size"):
        WinogradConvolution(nn.Conv2d(1, 1, 3, padding=1), 3)


@pytest.mark.parametrize("conditioning", ["layered", "concat"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@torch.inference_mode()
def test_synthesis_equals_the_generator_for_portraits_mixed_in_one_batch(conditioning, norm):
    config = tiny(conditioning, norm)
    generator = shaken(Generator(config, spectral=False), 0.05).eval()
    for spade in generator.spades:
        if norm == "batch":
            spade.norm.running_mean.normal_(std=0.3)
            spade.norm.running_var.uniform_(0.3, 3)
    labels, latent, attributes = inputs(4, config)
    portraits = [0, 0, 1, 2]
    synthesis = Synthesis(generator)
    prepared = [synthesis.prepare(generator.modulations(labels[number : number + 1])) for number in range(3)]
    found = synthesis(list(segments_of([prepared[number] for number in portraits])), latent, attributes)
    expected = generator.double()(labels[portraits], latent.double(), attributes.double())
    assert expected.std() > 0.01
    assert (found - expected).abs().max() < 1e-6


@torch.inference_mode()
def test_wide_layers_go_through_winograd_and_stay_exact():
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=64, width=16, hidden=8), spectral=False).eval()
    for parameter in generator.parameters():
        parameter.normal_(std=0.02)
    sizes = {winograd_size(block.conv_1, block.resolution) for block in generator.blocks}
    assert sizes == {0, 2, 4}
    labels, latent, attributes = inputs(2, GeneratorConfig(resolution=64))
    synthesis = Synthesis(generator)
    prepared = [synthesis.prepare(generator.modulations(labels[:1]))]
    found = synthesis([(slice(0, 2), prepared[0])], latent, attributes)
    expected = generator.double()(labels[[0, 0]], latent.double(), attributes.double())
    assert np.ptp(expected.numpy()) > 0.01
    assert (found - expected).abs().max() < 1e-5
