"""The refinement network's parts; what it does to portraits is in test_renderer.py and test_training_step.py."""

import torch
from torch import nn
from torch.nn.functional import interpolate

from capricious.model.refinement import EnlargingConvolution


def test_an_enlarging_convolution_is_the_convolution_of_the_enlarged() -> None:
    torch.manual_seed(0)
    layer = EnlargingConvolution(6, 5, 3, padding=1).double()
    plain = nn.Conv2d(6, 5, 3, padding=1).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 7, 4, dtype=torch.double, requires_grad=True)
    wanted, found = plain(interpolate(x, scale_factor=2.0, mode="nearest")), layer(x)
    assert torch.allclose(found, wanted, atol=1e-12)
    direction = torch.randn_like(wanted)
    gradients = [
        torch.autograd.grad((y * direction).sum(), [x, *network.parameters()])
        for y, network in ((wanted, plain), (found, layer))
    ]
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*gradients, strict=True))
