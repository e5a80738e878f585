"""The small parts that generator, encoder and discriminator are all made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import instance_norm, leaky_relu
from torch.nn.utils import parametrizations, parametrize

from capricious.faces.label_map import CLASSES

INIT_GAIN = 0.02
"""Gain of the Xavier-normal initialisation of every weight; biases start at 0 (SPADE, appendix A)."""

SLOPE = 0.2
"""Negative slope of every leaky ReLU."""

EPSILON = 1e-5
"""Added to the variance in instance norms: PyTorch's default."""

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int, bias: bool = True, spectral: bool = False
) -> nn.Conv2d:
    """Returns an initialised, optionally spectrally normalised convolution with zero padding."""
    return _prepare(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias), spectral)


def linear(inputs: int, outputs: int, *, spectral: bool = False) -> nn.Linear:
    """Returns an initialised, optionally spectrally normalised fully connected layer."""
    return _prepare(nn.Linear(inputs, outputs), spectral)


def initialize(weight: Tensor) -> None:
    """Fills a weight as INIT_GAIN says, but for one on the meta device, which has no values.

    Left to itself, torch would import its whole compiler there (6 s) and then fill nothing.
    """
    if not weight.is_meta:
        nn.init.xavier_normal_(weight, INIT_GAIN)


def _prepare(layer: _Layer, spectral: bool) -> _Layer:
    initialize(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    # Only now: the power iteration should start on the weight that training starts from.
    return cast(_Layer, parametrizations.spectral_norm(layer)) if spectral else layer


class NormActivation(nn.Module):
    """Instance norm without parameters, then leaky ReLU. A layer of its own, so that they can be compiled as one."""

    def forward(self, x: Tensor) -> Tensor:
        """x: B×C×H×W, any floating type. Returns the same."""
        if torch.compiler.is_dynamo_compiling():
            # PyTorch's own computes with planes one behind the other, and so would what follows: for a network in
            # channels_last a copy before and after each norm.
            variance, mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)
            return leaky_relu((x - mean) * torch.rsqrt(variance + EPSILON), SLOPE).to(x.dtype)
        return leaky_relu(instance_norm(x, eps=EPSILON), SLOPE)


@torch.no_grad()
def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Returns the state of a network with every spectral norm worked into its weight.

    It fits the same network built with spectral=False, which then yields what `network` yields in eval
    mode. `network` stays as it is.
    """
    state = {name: value for name, value in network.state_dict().items() if ".parametrizations." not in name}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            norm = module.parametrizations.weight
            training = norm.training
            norm.eval()  # in training mode, reading the weight would run one more power iteration
            state[f"{name}.weight"] = module.weight
            norm.train(training)
    return state


@torch.no_grad()
def load_plain_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fills a network with what plain_state() returned of another, whose spectral norms then start at 1.

    Weights under a spectral norm become new parameters: call it before an optimizer holds the old ones.

    Raises:
        RuntimeError: names that are missing or unexpected, or a shape that differs.
    """
    rest = dict(state)
    for name, module in list(network.named_modules()):  # as they are before their classes change
        if parametrize.is_parametrized(module, "weight") and f"{name}.weight" in rest:
            weight = rest.pop(f"{name}.weight")
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            module.load_state_dict({**module.state_dict(), "weight": weight})
            parametrizations.spectral_norm(module)  # anew: its power iteration runs on this weight
    found = network.load_state_dict(rest, strict=False)
    missing = [name for name in found.missing_keys if ".parametrizations." not in name]
    if missing or found.unexpected_keys:
        raise RuntimeError(f"missing: {', '.join(missing)}; unexpected: {', '.join(found.unexpected_keys)}")


@cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns numbers as a tensor on a device: copied there once, as a copy makes a GPU wait. Not to be written to."""
    with torch.inference_mode(False):  # or training could not use what a renderer asked for first
        return torch.tensor(values, dtype=dtype, device=device)


def shrink_labels(label_map: Tensor, size: int) -> Tensor:
    """Returns a B×R×R map of class indices at size×size by nearest neighbour, as a view.

    The centre pixel of each cell is taken, as in `faces.label_map.resize_label_map`. R must be a
    multiple of `size`.
    """
    step = label_map.shape[-1] // size
    return label_map[:, step // 2 :: step, step // 2 :: step]


def one_hot(label_map: Tensor, dtype: torch.dtype) -> Tensor:
    """Turns B×H×W class indices into B×K×H×W of 0 and 1.

    A class outside of 0…K−1 becomes all zeros: to look for it here would make the GPU wait at every step.
    """
    classes = torch.arange(len(CLASSES), dtype=label_map.dtype, device=label_map.device)
    return (label_map[:, None] == classes[:, None, None]).to(dtype)


def check_label_map(label_map: Tensor, resolution: int) -> None:
    """Raises ValueError unless the label map is B×R×R integers."""
    if label_map.ndim != 3 or label_map.shape[1:] != (resolution, resolution) or label_map.is_floating_point():
        raise ValueError(
            f"label_map must be B×{resolution}×{resolution} class indices, "
            f"found: {'×'.join(map(str, label_map.shape))} {label_map.dtype}"
        )
