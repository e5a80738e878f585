"""What torch.compile is given of the networks: the pieces between the convolutions, each by itself.

A SPADE layer or an instance norm is a dozen passes over its pictures, and as one kernel two. Convolutions are
somebody else's kernels either way. Whole networks would gain little more, and with their spectral norms and a graph of
their own for each batch size they take many minutes to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from capricious.model.layers import NormActivation
from capricious.model.patches import PatchConvolution
from capricious.model.perceptual import PerceptualLoss
from capricious.model.spade import SPADE

PIECES = (NormActivation, PatchConvolution, PerceptualLoss, SPADE)

LIMIT = 256
"""Pieces share their code, and each has its own shapes: beyond PyTorch's limit, 8, the others were not compiled."""

P = ParamSpec("P")
R = TypeVar("R")


def compile_pieces(network: nn.Module) -> None:
    """Lets the pieces of a network be compiled in place, when they first run; its weights keep their names."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LIMIT)
    for module in network.modules():
        if isinstance(module, PIECES):
            module.compile(dynamic=False)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function, compiled for each shape that it meets."""
    return torch.compile(function, dynamic=False)


def as_it_is(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function itself, where nothing is compiled."""
    return function


def uncompiled() -> AbstractContextManager[None]:
    """While it is open, everything runs as it is written."""
    return torch.compiler.set_stance("force_eager")
