"""The step of training as CUDA graphs: recorded once, then replayed without Python."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from capricious.training.augment import Draws
from capricious.training.batches import Batch
from capricious.training.config import TrainingConfig
from capricious.training.judges import Judges
from capricious.training.step import GanStep
from capricious.training.strategy import Player

WARM_UP = 3
"""Steps of each kind that run as they are before one is recorded: libraries choose kernels, pieces are compiled and
optimizers make their state, none of which can be recorded."""

Held = TypeVar("Held", Batch, Draws)


class _Kind(NamedTuple):
    """All that decides, other than as a number on the device, what a step does."""

    swaps: bool
    regularizes: bool
    augments: bool
    discriminator_steps: int


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    names: list[str]
    values: Tensor


class RecordedStep:
    """Does what a `GanStep` does, a step of each kind from a recording.

    A small network's step is thousands of short kernels, and Python takes longer to start them than the GPU to run
    them. A recording replays the very kernels on the very addresses, so batch and draws are copied to where they were
    when it was made; learning rates lie in tensors (`Player.scale_rate`).

    Args:
        step: of players whose optimizers are capturable, on a CUDA device.
    """

    def __init__(self, step: GanStep):
        self._step = step
        self._stream = torch.cuda.Stream()
        self._memory = torch.cuda.graph_pool_handle()
        self._runs: dict[_Kind, int] = {}
        self._recordings: dict[_Kind, _Recording] = {}
        self._batch: Batch | None = None
        self._draws: Draws | None = None
        self._probability = torch.zeros((), device="cuda")

    def __call__(
        self, batch: Batch, draws: Draws, *, discriminator_steps: int = 1, augment_probability: float = 0.0
    ) -> dict[str, Tensor]:
        """As `GanStep.__call__`, for batches that are all of one size."""
        kind = _Kind(draws.swap, self._step.regularizes(draws), augment_probability > 0, discriminator_steps)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._batch, self._draws = _held(self._batch, batch), _held(self._draws, draws)
            self._probability.fill_(augment_probability)
            log = self._run(kind, self._batch, self._draws)
        torch.cuda.current_stream().wait_stream(self._stream)
        return log

    def _run(self, kind: _Kind, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        runs = self._runs[kind] = self._runs.get(kind, 0) + 1
        if runs <= WARM_UP:
            return self._as_it_is(kind, batch, draws)
        if kind not in self._recordings:
            self._recordings[kind] = self._record(kind, batch, draws)
        graph, names, values = self._recordings[kind]
        graph.replay()
        # Cloned: the next replay writes to the same place.
        return dict(zip(names, values.clone().unbind(), strict=True))

    def _record(self, kind: _Kind, batch: Batch, draws: Draws) -> _Recording:
        graph = torch.cuda.CUDAGraph()
        # Other threads go on meanwhile: the one that decodes the next batches may need memory of the device.
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"):
            log = self._as_it_is(kind, batch, draws)
            values = torch.stack([value.float() for value in log.values()])
        return _Recording(graph, list(log), values)

    def _as_it_is(self, kind: _Kind, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        probability = self._probability if kind.augments else 0.0
        return self._step(batch, draws, discriminator_steps=kind.discriminator_steps, augment_probability=probability)


def new_step(
    config: TrainingConfig, autoencoder: Player, discriminator: Player, judges: Judges
) -> GanStep | RecordedStep:
    """Returns the step that the configuration asks for: as written, or recorded."""
    step = GanStep(config, autoencoder, discriminator, judges)
    return RecordedStep(step) if config.cuda_graphs else step


def _held(held: Held | None, new: Held) -> Held:
    """Copies the tensors of `new` into those of `held`; what is no tensor is taken over."""
    parts: dict[str, Any] = {field.name: getattr(new, field.name) for field in fields(new)}
    for name, value in parts.items():
        if isinstance(value, Tensor):
            parts[name] = value.clone() if held is None else getattr(held, name).copy_(value)
    return type(new)(**parts)
