"""Pictures for training, decoded by Ray Data on CPUs that no training process uses.

Ray Data brings its own shuffling and splitting, which follow from who is ready first. Here the rows are the numbers
of the run's steps, from the newest checkpoint on, and each worker has a stream of its own: so the pictures are, bit
for bit, the ones that the workers would decode themselves, and a resumed run goes on where the checkpoint was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
import ray.data
import ray.train
import torch
from ray.train import DataConfig

from capricious.errors import CapriciousError
from capricious.training.batches import Batch, PortraitStream, as_batch, on_device
from capricious.training.checkpoint import read_state
from capricious.training.checkpoint_store import latest
from capricious.training.config import TrainingConfig
from capricious.training.datasets import JoinedDatasets

NAME = "portraits"
BLOCKS = 10_000
"""At most so many blocks a stream: Ray Data holds a description of each in memory."""


class InOrder(DataConfig):
    """Gives each worker its share of every global batch, in order. Ray Train asks anew whenever it starts workers.

    Args:
        data, out: prepared datasets and the run, as for `training.loop.train`.
        decoders: CPUs that decode for each worker.
    """

    def __init__(self, training: TrainingConfig, data: Sequence[str], out: str, decoders: int):
        super().__init__(enable_shard_locality=False)
        self._training, self._data, self._out, self._decoders = training, data, out, decoders

    def configure(self, datasets: dict[str, Any], world_size: int, *ignored: Any, **more: Any) -> list[dict[str, Any]]:
        """Makes the streams. The given `datasets` only name the one that is made here."""
        config = self._training
        newest = latest(self._out)
        position = read_state(newest)["images_seen"] if newest else 0
        stream = PortraitStream(
            JoinedDatasets(self._data, "train"),
            resolution=config.resolution,
            seed=config.seed,
            balance=config.balance,
            shares=config.data_shares,
        )
        shared = ray.put(stream)  # one copy a node, read in place by all tasks there
        shares = [Share(position, config.batch_size, rank, world_size) for rank in range(world_size)]
        steps = -(-(round(config.kimg * 1000) - position) // config.batch_size)
        return [{NAME: self._stream(share, max(steps, 1), shared)} for share in shares]

    def _stream(self, share: Share, steps: int, shared: ray.ObjectRef[Any]) -> ray.data.DataIterator:
        rows = ray.data.range(steps, override_num_blocks=min(steps, BLOCKS))
        decode: Any = share.fetch_and_decode  # Ray's types know no function with fn_args
        decoded = rows.map_batches(decode, fn_args=(shared,), batch_size=None, num_cpus=1)
        options = decoded.context.execution_options
        options.preserve_order = True
        options.resource_limits = options.resource_limits.copy(cpu=self._decoders)
        decoded.context.enable_progress_bars = False
        return decoded.iterator()


class Share:
    """One worker's part of each global batch from `position` on."""

    def __init__(self, position: int, batch_size: int, rank: int, world_size: int):
        self._position, self._batch_size = position, batch_size
        self._size = batch_size // world_size
        self._offset = rank * self._size

    def fetch_and_decode(
        self, steps: dict[str, np.ndarray], shared: ray.ObjectRef[Any]
    ) -> Iterator[dict[str, np.ndarray]]:
        """`decode` with the stream from Ray's object store, read in place."""
        return self.decode(steps, ray.get(shared))

    def decode(self, steps: dict[str, np.ndarray], stream: PortraitStream) -> Iterator[dict[str, np.ndarray]]:
        """Decodes this part of the batch of each step ("id": numbers of steps)."""
        for step in steps["id"].tolist():
            position = self._position + step * self._batch_size + self._offset
            indices = stream.indices(position, self._size)
            yield {
                "position": np.arange(position, position + self._size),
                **stream.decode(indices)._asdict(),
                "attributes": stream.attributes[indices],
            }


def batches_from_ray(config: TrainingConfig, position: int, device: torch.device) -> Iterator[Batch]:
    """Yields this worker's batches; the `Feed` of `training.loop.train` in a run with `InOrder`.

    Raises:
        CapriciousError: the stream begins elsewhere than this worker has to go on.
    """
    context = ray.train.get_context()
    size = config.batch_size // context.get_world_size()
    expected = position + context.get_world_rank() * size
    shard = ray.train.get_dataset_shard(NAME)
    # On the CPU first: to look at a number that is on a GPU would wait for all its work.
    for rows in shard.iter_torch_batches(batch_size=size, prefetch_batches=2, device="cpu"):
        if (found := int(rows["position"][0])) != expected:
            raise CapriciousError(
                f"pictures from number {found} on came where {expected} was due: somebody else has written a "
                "checkpoint into this run meanwhile; stop that, and start the same command again"
            )
        yield as_batch(*(on_device(rows[name], device) for name in ("image", "label_map", "inside", "attributes")))
        expected += config.batch_size
