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
    """Renders each sitter of `batch` at his own and at the given ages, from μ, with the EMA weights.

    Returns:
        Uint8 picture of B·R rows and (2 + number of ages)·R columns: photo, reconstruction, ages.
    """
    mean, _ = autoencoder.encoder(batch.image)
    modulations = autoencoder.generator.modulations(batch.label_map)
    columns = [batch.image, autoencoder.generator.synthesize(modulations, mean, batch.attributes)]
    for age in ages:
        wanted = batch.attributes.clone()
        wanted[:, AGE], wanted[:, AGE_KNOWN] = age / 100.0, 1.0
        columns.append(autoencoder.generator.synthesize(modulations, mean, wanted))
    grid = torch.stack([c.float().cpu() for c in columns], 1)  # B×columns×3×R×R
    rows, count, _, size, _ = grid.shape
    pixels = grid.permute(0, 3, 1, 4, 2).reshape(rows * size, count * size, 3)
    return ((pixels + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def write_grid(path: Path, autoencoder: Autoencoder, batch: Batch) -> None:
    """Writes a sample grid as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_io.encode(sample_grid(autoencoder, batch), "png"))
