"""Tiny networks with random weights and their inputs, for tests of wiring."""

from __future__ import annotations

import torch

from capricious.faces.attributes import Attributes
from capricious.faces.label_map import CLASSES
from capricious.model.generator import GeneratorConfig


def random_labels(batch: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, len(CLASSES), (batch, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def shaken(module: torch.nn.Module, scale: float = 0.3) -> torch.nn.Module:
    """Gives every parameter, also those that start at 0, a value that shows in the output."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return module


def tiny(conditioning: str = "layered", norm: str = "batch", resolution: int = 64) -> GeneratorConfig:
    return GeneratorConfig(resolution, width=2, hidden=4, latent=8, conditioning=conditioning, norm=norm)


def inputs(batch: int, config: GeneratorConfig, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    vectors = [Attributes(age=20.0 + 7 * i, gender=i % 2).vector() for i in range(batch)]
    attributes = torch.stack([torch.from_numpy(v) for v in vectors])
    return random_labels(batch, config.resolution, seed), torch.randn(batch, config.latent), attributes
