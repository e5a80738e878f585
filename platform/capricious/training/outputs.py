"""What a run leaves behind while it goes and when it ends: metrics, sample grids, weights, checkpoints, the bundle."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from capricious.config import to_mapping
from capricious.data import storage
from capricious.data.records import picture_names
from capricious.errors import CapriciousError, ConfigError
from capricious.model.bundle import TRAINING_PICTURES, pictures_file, save_bundle
from capricious.model.learnt import Learnt
from capricious.training import augment, checkpoint, checkpoint_store, observers
from capricious.training.batches import Batch, BatchSource
from capricious.training.config import TrainingConfig
from capricious.training.export import with_own_statistics
from capricious.training.networks import Autoencoder
from capricious.training.observers import Observer
from capricious.training.progress import Meter
from capricious.training.run_folder import RunFolder
from capricious.training.score import Scorer
from capricious.training.snapshot import write_grid
from capricious.training.state import TrainingState
from capricious.training.strategy import Processes

log = logging.getLogger(__name__)

SITTERS = 8
"""Rows of a sample grid."""

CHUNK = 16
"""Pictures that go at once through the network to release, when its statistics are measured."""


class Outputs:
    """Writes the outputs of a run. All processes call the methods alike; most is done by the first.

    Args:
        state: what is being trained; read, and filled by `resume`.
        source: training data, for the sample grid and the statistics of batch norm.
        out: folder or URL.
        scorers: score checkpoints, in the first process.
        told: observers besides those that the configuration names.
        learnt_before: uint64 names of the pictures that a warm start brought along.
    """

    def __init__(
        self,
        config: TrainingConfig,
        processes: Processes,
        state: TrainingState,
        source: BatchSource,
        *,
        out: str,
        scorers: Sequence[Scorer],
        told: Sequence[Observer],
        learnt_before: np.ndarray,
    ):
        self.config, self.out = config, out
        self._processes, self._state, self._source, self._scorers = processes, state, source, scorers
        self._first = processes.rank == 0
        self._folder = RunFolder(out)
        keep = config.keep_checkpoints
        self._store = checkpoint_store.CheckpointStore(out, processes, keep, config.best_by, config.best_is)
        self._observers: list[Observer] = list(told)
        self._prometheus: observers.Prometheus | None = None
        self._exported: tuple[int, Autoencoder] | None = None
        self._learnt_before = learnt_before
        self._require_score()
        self._shown = source.take(torch.linspace(0, len(source.dataset) - 1, SITTERS).long().numpy())

    def resume(self) -> None:
        """Fills the state from the newest checkpoint, if there is one, and takes up the metrics where it ends.

        Raises:
            CapriciousError: `out` is not shared by all processes, or holds a run with other settings.
        """
        self._store.require_shared()
        if newest := checkpoint_store.latest(self.out):
            saved = checkpoint.read_state(newest)
            checkpoint.refuse_other_run(saved, self._identity(), self.out, to_mapping(TrainingConfig()))
            with self._store.opened(newest) as folder:
                self._state.load(folder, saved)
            if self._first:
                log.info("continuing %s", newest)
        if self._first:
            self._open_observers()

    def log(self, meter: Meter, started: float) -> dict[str, Any]:
        """Reads the meter and tells all observers; returns the metrics.

        Raises:
            CapriciousError: the weights are no numbers any more.
        """
        seen, config = self._state.images_seen, self.config
        measured = meter.read(seen, self._processes)
        elapsed = time.monotonic() - started
        left = (config.kimg * 1000 - seen) / max(measured["images_per_second"], 0.01)
        if config.max_minutes is not None:
            left = min(left, max(0.0, config.max_minutes * 60 - elapsed))
        metrics: dict[str, Any] = {
            "kimg": seen / 1000,
            "minutes": round(elapsed / 60, 3),
            "seconds_left": round(left),
            "discriminator_steps": self._state.pace.steps,
            "augment_probability": round(self._state.pace.augment, 4),
            **measured,
            "margin": round(measured["logits/real"] - measured["logits/fake"], 5),
        }
        if self._processes.device.type == "cuda":
            metrics["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated(self._processes.device) / 2**30, 3)
        for observe in self._observers:
            observe(metrics)
        self._refuse_divergence()
        return metrics

    def snapshot(self) -> None:
        """Writes a sample grid and the newest weights.

        Raises:
            CapriciousError: they are no numbers any more.
        """
        self._refuse_divergence()
        with self._state.discriminator.gathered():
            if not self._first:
                return
            folder = self._folder.path / "weights"
            folder.mkdir(parents=True, exist_ok=True)
            network = self._export()
            networks: dict[str, nn.Module] = {
                "generator": network.generator,
                "encoder": network.encoder,
                "discriminator": self._state.discriminator.module,
            }
            if network.refinement is not None:
                networks["refinement"] = network.refinement
            for name, module in networks.items():
                checkpoint.save_module(module, folder / f".{name}", torch.bfloat16)
                (folder / f".{name}").rename(folder / f"{name}.safetensors")
            storage.write_atomic(str(folder / TRAINING_PICTURES), pictures_file(self._training_pictures))
        name = f"{checkpoint.folder_name(self._state.images_seen)}.png"
        write_grid(self._folder.path / "snapshots" / name, network, self._shown)
        self._folder.publish()

    def checkpoint(self, metrics: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Writes a checkpoint, its bundle and a sample grid; returns the metrics with the scores, and where it is.

        Raises:
            CapriciousError: the weights are no numbers any more.
        """
        self._refuse_divergence()
        scores, kimg = self._scores(), self._state.images_seen / 1000
        metrics = {**metrics, "kimg": kimg, **scores}
        if scores:
            for observe in self._observers:
                observe({"kimg": kimg, **scores})
        # Each process has measured its own share, and a continued one gets what the first has saved.
        self._state.pace.share(self._processes)
        state = {**self._state.numbers(), **self._identity(), "scores": scores}

        def save(folder: Path) -> None:
            self._state.save(folder, self._first)
            if self._first:
                self._save_bundle(folder / "bundle", scores)

        place = self._store.write(self._state.images_seen, save, state)
        self.snapshot()
        return metrics, place

    def finish(self, metrics: dict[str, Any], *, finished: bool) -> tuple[dict[str, Any], str | None]:
        """Writes the last checkpoint and the bundle; returns the last metrics, and the checkpoint if it is new."""
        newest, place = checkpoint_store.latest(self.out), None
        if newest is None or not newest.endswith(checkpoint.folder_name(self._state.images_seen)):
            metrics, place = self.checkpoint(metrics)
            newest = place
        bundle = storage.join(self.out, "bundle")
        if self._first:
            self._save_bundle(self._folder.path / "bundle", checkpoint.read_state(newest)["scores"])
            self._folder.publish()
            end = "done" if finished else "stopped; the same command continues"
            log.info("%.1f kimg seen, %s; bundle: %s", self._state.images_seen / 1000, end, bundle)
        self._processes.wait()
        metrics = {**metrics, "finished": finished, "bundle": bundle}
        config = self.config
        if config.best_by and (winner := checkpoint_store.best(self.out, config.best_by, config.best_is)):
            metrics["best_bundle"] = storage.join(winner, "bundle")
        return metrics, place

    def close(self) -> None:
        """Gives back the port and the temporary folder, if there are any."""
        if self._prometheus is not None:
            self._prometheus.close()
        self._folder.close()

    def _open_observers(self) -> None:
        seen, folder = self._state.images_seen, self._folder.path
        self._folder.fetch("metrics.jsonl")
        self._prometheus = observers.prometheus(self.config.prometheus_port, self.out)
        more: list[Observer | None] = [
            observers.status_line,
            observers.MetricsFile(folder / "metrics.jsonl", seen / 1000),
            observers.tensorboard(folder / "events", seen),
            self._prometheus,
        ]
        self._observers += [observe for observe in more if observe is not None]

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        return {
            "config": to_mapping(self.config),
            "data_fingerprint": self._source.dataset.fingerprint,
            "world_size": self._processes.world_size,
        }

    @cached_property
    def _training_pictures(self) -> np.ndarray:
        dataset = self._source.dataset
        own = picture_names(dataset.portrait(i).id for i in range(len(dataset)))
        return np.union1d(own, self._learnt_before)

    def _refuse_divergence(self) -> None:
        if self._state.is_finite():
            return
        good = checkpoint_store.latest(self.out)
        begin = f"begin anew from {storage.join(good, 'bundle')} (--training.warm-start)" if good else "begin anew"
        raise CapriciousError(
            f"{self.out}: the training has diverged: after {self._state.images_seen} pictures its weights are no "
            f"numbers any more, and none of them was saved; {begin} in another --out, with lower learning rates, "
            "--training.r1.weight 1, or fp32 instead of bf16"
        )

    def _require_score(self) -> None:
        """Raises ConfigError, on every process, where checkpoints will not have the score that decides on the best."""
        wanted, given = self.config.best_by, [name for scorer in self._scorers for name in scorer.names]
        if self._processes.total(int(self._first and wanted is not None and wanted not in given)):
            raise ConfigError(
                f"training.best_by is {wanted!r}, but checkpoints are scored by: {', '.join(given) or 'nothing'}; "
                "choose one of these, or leave it out (held_out/l1 needs a dataset with a test split)"
            )

    def _export(self) -> Autoencoder:
        """The network to release, on the first process: the averaged weights with statistics of their own."""
        seen = self._state.images_seen
        if self._exported is None or self._exported[0] != seen:
            self._exported = (seen, with_own_statistics(self._state.ema.network, self._training_batches()))
        return self._exported[1]

    def _training_batches(self) -> Iterator[tuple[Batch, augment.Draws]]:
        """The next training pictures with draws: the same ones whoever asks, and however often."""
        config, device = self.config, self._processes.device
        # Not batch by batch: all processes' pictures of a step may be more than this one's device can hold.
        for k in range(-(-config.recalibrate_batches * config.batch_size // CHUNK)):
            position = self._state.images_seen + k * CHUNK
            draws = augment.draw(
                config.seed,
                position,
                CHUNK,
                latent=config.network.latent,
                ages=(config.swap.min_age, config.swap.max_age),
            )
            yield self._source.take(self._source.stream.indices(position, CHUNK)), draws.to(device)

    def _scores(self) -> dict[str, float]:
        if not (self._first and self._scorers):
            return {}
        network = self._export()
        return dict(item for scorer in self._scorers for item in scorer(network).items())

    def _save_bundle(self, folder: Path, scores: dict[str, float]) -> None:
        network = self._export()
        info = {
            "training": {"config": to_mapping(self.config), "images_seen": self._state.images_seen},
            "data": {"fingerprint": self._source.dataset.fingerprint, "portraits": len(self._source.dataset)},
            "scores": scores,
        }
        if self.config.swap.strength is not None:
            info["strength"] = self.config.swap.strength
        learnt = Learnt.of(self._source.stream.attributes)
        pictures = self._training_pictures
        save_bundle(
            folder,
            network.generator,
            network.encoder,
            info,
            refinement=network.refinement,
            training_pictures=pictures,
            learnt=learnt,
        )
