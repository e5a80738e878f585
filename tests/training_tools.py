"""Tiny networks and made-up portraits for the tests of training. They show wiring, not picture quality."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from capricious.data.prepared import write_manifest, write_shard
from capricious.data.records import Portrait
from capricious.faces.attributes import Attributes
from capricious.model.losses import LossWeights
from capricious.training.config import NetworkConfig, SwapConfig, TrainingConfig

SIZE = 64
NETWORK = NetworkConfig(width=4, hidden=4, latent=8, encoder_width=4, discriminator_width=4, scales=1)
NO_WEIGHTS = LossWeights(perceptual=0.0, age=0.0, gender=0.0)
"""Without the losses that need fetched third-party weights."""


def tiny_config(**changes: Any) -> TrainingConfig:
    """A 64-px run of a few steps of 4 pictures, with a swap in half of them."""
    values: dict[str, Any] = {
        "resolution": SIZE,
        "network": NETWORK,
        "loss": NO_WEIGHTS,
        "swap": SwapConfig(probability=0.5),
        "batch_size": 4,
        "kimg": 0.024,
        "ema_kimg": 0.01,
        "log_every": 2,
        "checkpoint_kimg": 1.0,
        "snapshot_kimg": 1.0,
        "recalibrate_batches": 1,
        "device": "cpu",
        **changes,
    }
    return TrainingConfig(**values)


def made_up_portraits(count: int, seed: int = 0, held_out: int = 0) -> list[Portrait]:
    """Blurred noise, label maps of blocks, and every third sitter of unknown age; the first few are held out."""
    random = np.random.default_rng(seed)
    portraits = []
    for i in range(count):
        coarse = random.integers(0, 256, (8, 8, 3), np.uint8)
        labels = np.kron(random.integers(0, 7, (4, 4), np.uint8), np.ones((SIZE // 4, SIZE // 4), np.uint8))
        age = None if i % 3 == 2 else float(random.integers(0, 90))
        portraits.append(
            Portrait(
                id=f"{i:064d}-0",
                source_uri=f"made-up-{i}.png",
                source_size=(SIZE, SIZE),
                face=0,
                split="test" if i < held_out else "train",
                image=_png(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)),
                label_map=_png(Image.fromarray(labels)),
                landmarks=np.zeros((68, 2), np.float32),
                quad=np.zeros((4, 2), np.float32),
                attributes=Attributes(age=age, gender=float(i % 2)),
                attribute_source={},
                detection_score=1.0,
                landmark_score=1.0,
                pose=np.zeros(3, np.float32),
                resolution_score=1.0,
                inside_score=1.0,
                perceptual_hash=b"",
                license="",
            )
        )
    return portraits


class Listed(list):
    """A list of portraits that can be read like a prepared dataset."""

    resolution, fingerprint = SIZE, "made-up"

    def portrait(self, index):
        return self[index]


def write_dataset(folder: Path, count: int = 10, seed: int = 0, held_out: int = 0) -> str:
    """Writes a prepared dataset of made-up portraits and returns its path."""
    write_shard(str(folder), 0, made_up_portraits(count, seed, held_out), [], pictures=count, seconds={})
    write_manifest(str(folder), 1, {}, SIZE)
    return str(folder)


class Brightness(nn.Module):
    """Stands in for the age estimator: the brighter, the older; the redder, the more male. Closed forms."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 50.0 + 50.0 * image.mean((1, 2, 3)), torch.sigmoid(image[:, 0].mean((1, 2)))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
