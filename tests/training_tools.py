"""Tiny networks and made-up portraits for the tests of training. They show wiring, not picture quality."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from capricious.config import to_mapping
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


class Outcome(NamedTuple):
    """What a run has learnt.

    Attributes:
        metrics: of each line of its log, without what a clock says.
        weights: of the released generator and encoder, in one float64 vector.
    """

    metrics: list[dict[str, float]]
    weights: torch.Tensor

    def apart(self, other: Outcome) -> float:
        """How far the weights of two runs are apart."""
        return float(torch.linalg.vector_norm(self.weights - other.weights))


def train_apart(folder: Path, data: str, config: TrainingConfig, processes: int = 1) -> Outcome:
    """Trains in processes of their own, as torchrun would start them; their logs and their run lie in `folder`."""
    folder.mkdir(exist_ok=True)
    settings = {"data": [data], "out": str(folder / "out"), "training": to_mapping(config)}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    command = [sys.executable, "-m", "capricious.training", "--config", str(folder / "config.yaml")]
    logs = [folder / f"log-{rank}" for rank in range(processes)]
    children = []
    for rank, log in enumerate(logs):
        mine = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{processes}"} if processes > 1 else {}
        with log.open("w") as file:
            children.append(subprocess.Popen(command, env=environment | mine, stdout=file, stderr=file))
    codes = [child.wait(timeout=300) for child in children]
    assert not any(codes), "\n".join(log.read_text() for log in logs)
    clock = ("images_per_second", "minutes", "seconds_left", "data_wait", "gpu_memory_gb")
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    parts = [load_file(folder / "out" / "bundle" / f"{part}.safetensors") for part in ("generator", "encoder")]
    return Outcome(
        [{name: value for name, value in json.loads(line).items() if name not in clock} for line in lines],
        torch.cat([part[name].double().flatten() for part in parts for name in sorted(part)]),
    )


class Brightness(nn.Module):
    """Stands in for the age estimator: the brighter, the older; the redder, the more male. Closed forms."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 50.0 + 50.0 * image.mean((1, 2, 3)), torch.sigmoid(image[:, 0].mean((1, 2)))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
