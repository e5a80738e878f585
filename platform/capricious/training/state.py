"""What training changes: the two players with their optimizers, the averaged weights, the pace, the images seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from capricious.training import checkpoint
from capricious.training.ema import Ema
from capricious.training.networks import Autoencoder
from capricious.training.pace import Pace
from capricious.training.strategy import Player


@dataclass
class TrainingState:
    """Everything that a checkpoint must hold.

    Attributes:
        images_seen: of all processes together; it is also the position in the data and seeds all draws.
    """

    autoencoder: Player
    discriminator: Player
    ema: Ema[Autoencoder]
    pace: Pace
    images_seen: int = 0

    def is_finite(self) -> bool:
        """Whether the averaged weights are numbers. They are not for long when those of either player are not."""
        return bool(torch.stack([weight.isfinite().all() for weight in self.ema.network.parameters()]).all())

    def save(self, folder: Path, first: bool) -> None:
        """Writes this process's files; all processes call it, the `first` writes what all have alike."""
        self.autoencoder.save(folder, "autoencoder")
        self.discriminator.save(folder, "discriminator")
        if first:
            checkpoint.save_module(self.ema.network, folder / "ema.safetensors")

    def numbers(self) -> dict[str, Any]:
        """What state.json keeps of it."""
        return {"images_seen": self.images_seen, "pace": self.pace.state()}

    def load(self, folder: Path, numbers: dict[str, Any]) -> None:
        """Inverse of `save` and `numbers`; all processes call it."""
        self.autoencoder.load(folder, "autoencoder")
        self.discriminator.load(folder, "discriminator")
        checkpoint.load_module(self.ema.network, folder / "ema.safetensors")
        self.images_seen = numbers["images_seen"]
        self.pace.restore(numbers["pace"])
