"""A cheap score for checkpoints: how well portraits that training never sees are reconstructed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow.compute as pc
import torch

from capricious.data.prepared import read_manifest, read_shard
from capricious.training.batches import Batch, BatchSource
from capricious.training.datasets import JoinedDatasets
from capricious.training.networks import Autoencoder


class Scorer(Protocol):
    """Scores checkpoints.

    Attributes:
        names: of the scores.
    """

    names: tuple[str, ...]

    def __call__(self, autoencoder: Autoencoder) -> dict[str, float]:
        """Scores the network that is about to be saved, in eval mode on the device of the first process, which alone
        calls it while the others wait: seconds, not minutes."""
        ...


HELD_OUT_L1 = "held_out/l1"
COUNT, CHUNK = 64, 8


class HeldOutReconstruction:
    """Scorer "held_out/l1": mean |output − photo| of at most 64 portraits of the test split, pixels in 0…255.

    Each is rendered at the sitter's own attributes, from the style code μ.

    Args:
        source: batches of the held-out portraits.
    """

    names: tuple[str, ...] = (HELD_OUT_L1,)

    def __init__(self, source: BatchSource):
        count = min(COUNT, len(source.dataset))
        self._indices = np.linspace(0, len(source.dataset) - 1, count).round().astype(np.int64)
        self._source = source

    @torch.no_grad()
    def __call__(self, autoencoder: Autoencoder) -> dict[str, float]:
        errors = []
        for start in range(0, len(self._indices), CHUNK):  # always as many at once: bits depend on the shape
            errors += reconstruction_errors(autoencoder, self._source.take(self._indices[start : start + CHUNK]))
        return {HELD_OUT_L1: round(float(np.mean(errors)), 4)}


@torch.no_grad()
def reconstruction_errors(autoencoder: Autoencoder, batch: Batch) -> list[float]:
    """Returns each portrait's mean |output − photo| inside of the photo, pixels in 0…255."""
    mean, _ = autoencoder.encoder(batch.image)
    rendered = autoencoder.generator(batch.label_map, mean, batch.attributes)
    errors = 127.5 * (rendered.float() - batch.image).abs().mean(1)
    return ((errors * batch.inside).sum((1, 2)) / batch.inside.sum((1, 2))).tolist()


def held_out(data: Sequence[str]) -> JoinedDatasets | None:
    """Returns the test splits of prepared datasets; None where none of them has one."""
    tested = [path for path in data if _has_test_split(path)]
    return JoinedDatasets(tested, "test") if tested else None


def held_out_scorer(data: Sequence[str], resolution: int, device: torch.device) -> Scorer | None:
    """Returns the scorer on the test splits of prepared datasets; None where none of them has one."""
    portraits = held_out(data)
    if portraits is None:
        return None
    return HeldOutReconstruction(
        BatchSource(portraits, resolution=resolution, batch_size=CHUNK, seed=0, device=device, memory_budget=0)
    )


def _has_test_split(path: str) -> bool:
    shards = range(len(read_manifest(path)["shards"]))
    return any(pc.any(pc.equal(read_shard(path, "portraits", i, ["split"])["split"], "test")).as_py() for i in shards)
