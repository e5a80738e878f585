"""Sample grids: the same sitters at the same ages, again and again, to look at while a run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from capricious.faces import image as image_io
from capricious.training.augment import AGE, AGE_KNOWN
from capricious.training.batches import Batch
from capricious.training.networks import Autoencoder

AGES = (10.0, 25.0, 40.0, 55.0, 70.0)


@torch.no_grad()
def sample_grid(autoencoder: Autoencoder, batch: Batch, ages: tuple[float, ...] = AGES) -> np.ndarray:
    """Renders each sitter of `batch` at his own age and, as trained to be delivered, at the given ones: from μ.

    Returns:
        Uint8 picture of B·R rows and (2 + number of ages)·R columns: photo, reconstruction, ages.
    """
    mean, _ = autoencoder.encoder(batch.image)
    reconstructions = autoencoder.generator(batch.label_map, mean, batch.attributes)
    sitters = []
    for i in range(len(batch.image)):
        row = slice(i, i + 1)
        wanted = batch.attributes[row].repeat(len(ages), 1)
        wanted[:, AGE], wanted[:, AGE_KNOWN] = wanted.new_tensor(ages) / 100.0, 1.0
        aged = autoencoder.render(batch.image[row], batch.label_map[row], batch.attributes[row], wanted)
        sitters.append(torch.cat([batch.image[row], reconstructions[row], aged]).float().cpu())
    grid = torch.stack(sitters)  # B×columns×3×R×R
    rows, count, _, size, _ = grid.shape
    pixels = grid.permute(0, 3, 1, 4, 2).reshape(rows * size, count * size, 3)
    return ((pixels + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def write_grid(path: Path, autoencoder: Autoencoder, batch: Batch) -> None:
    """Writes a sample grid as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_io.encode(sample_grid(autoencoder, batch), "png"))
