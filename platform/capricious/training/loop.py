"""The training loop: steps, progress lines, sample grids, checkpoints, and the bundle at the end.

::

    out/metrics.jsonl            one line per progress report
    out/snapshots/*.png          sample grids
    out/weights/*.safetensors    newest weights in bf16, to warm-start another run from
    out/checkpoints/             to continue this run: start the same command again
    out/bundle/                  EMA weights of generator and encoder; written when the run ends
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from capricious.config import to_mapping
from capricious.data.prepared import PreparedDataset
from capricious.data.records import picture_names
from capricious.model.bundle import save_bundle
from capricious.training import augment, checkpoint
from capricious.training import strategy as strategies
from capricious.training.batches import Batch, BatchSource
from capricious.training.config import TrainingConfig
from capricious.training.ema import Ema
from capricious.training.networks import new_judges, new_networks, warm_start
from capricious.training.pace import Pace
from capricious.training.progress import Meter, clock, forget_after
from capricious.training.snapshot import write_grid
from capricious.training.step import GanStep
from capricious.training.strategy import Strategy

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any], Path | None], None]
"""Called on every process after each checkpoint with the metrics, and the folder that this process wrote to,
None where it wrote nothing (with plain and ddp: all but the first process)."""

AGREE_EVERY = 4
"""Steps after which the processes agree on stopping and on the pace of the discriminator: each time costs a wait."""

SITTERS = 8
"""Rows of a sample grid."""


def train(
    config: TrainingConfig,
    *,
    data: str,
    out: str,
    strategy: Strategy | None = None,
    report: Report | None = None,
    resume: Path | None = None,
) -> dict[str, Any]:
    """Trains until `kimg` or `max_minutes` is reached or SIGTERM comes, and writes the bundle.

    The newest checkpoint in `out` is continued, as if the run had never stopped. All processes call this
    alike, with an `out` that the processes of one machine share.

    Args:
        data: prepared dataset; its "train" split is learnt.
        strategy: None for the one that the configuration names.
        report: see `Report`.
        resume: checkpoint to continue where `out` has none (on a machine that was not there before).

    Returns:
        The last metrics: "kimg", "finished" (bool: all of `kimg` was seen), "bundle" (folder), and losses.

    Raises:
        CapriciousError: the data is not usable, or `out` holds a run with other settings.
    """
    started = time.monotonic()
    spread = strategy or strategies.create(config)
    try:
        with _stop_on_sigterm() as stopping:
            run = Run(config, spread, data=data, out=Path(out), resume=resume)
            return run.go(started, stopping, report or (lambda metrics, folder: None))
    finally:
        if strategy is None:
            spread.processes.close()


class Run:
    """Everything that one run holds. Training continues where the newest checkpoint left off."""

    def __init__(self, config: TrainingConfig, spread: Strategy, *, data: str, out: Path, resume: Path | None = None):
        self.config, self.out, self.data = config, out, data
        self.processes = spread.processes
        dataset = PreparedDataset(data, "train")
        self.fingerprint = dataset.fingerprint
        self.source = BatchSource(
            dataset,
            resolution=config.resolution,
            batch_size=config.batch_size,
            seed=config.seed,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            device=self.processes.device,
            balance_ages=config.balance_ages,
            memory_budget=int(config.memory_budget_gb * 2**30),
            workers=config.num_workers,
        )
        self.images_seen = 0
        self.pace = Pace(config)
        autoencoder, discriminator = new_networks(config)
        if config.warm_start is not None:
            warm_start(Path(config.warm_start), autoencoder, discriminator)
        self.ema = Ema(autoencoder, config.ema_kimg * 1000)
        self.autoencoder = spread.player(autoencoder, config.lr_generator)
        self.discriminator = spread.player(discriminator, config.lr_discriminator)
        self.ema.network.to(self.processes.device)
        device = self.processes.device
        self.step = GanStep(config, self.autoencoder, self.discriminator, *new_judges(config, device))
        self._shown = self._sitters()
        self._continue(checkpoint.latest(out) or resume)

    def go(self, started: float, stopping: threading.Event, report: Report) -> dict[str, Any]:
        """Runs to the end; see `train`."""
        config, total = self.config, round(self.config.kimg * 1000)
        meter = Meter(self.images_seen, started)
        batches = self.source.batches(self.images_seen)
        metrics: dict[str, Any] = {"kimg": self.images_seen / 1000}
        stop = False
        while self.images_seen < total and not stop:
            meter.add(self._one_step(next(batches)))
            steps = self.images_seen // config.batch_size
            if steps % AGREE_EVERY == 0:
                stop = self._agree(stopping.is_set() or _is_over(config, started))
            if steps % config.log_every == 0 or stop or self.images_seen >= total:
                metrics = self._log(meter, total, started)
            if self._passed(config.snapshot_kimg):
                self._snapshot()
            if self._passed(config.checkpoint_kimg) and self.images_seen < total and not stop:
                report(metrics, self._checkpoint())
        return self._finish(metrics, report, finished=self.images_seen >= total)

    def _one_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        config, seen = self.config, self.images_seen
        draws = augment.draw(
            config.seed,
            seen,
            config.batch_size,
            latent=config.network.latent,
            dropout=config.attribute_dropout,
            swap=config.swap.probability,
            ages=(config.swap.min_age, config.swap.max_age),
            gender_swap=config.swap.gender_probability,
        )
        ramp = min(1.0, (seen + config.batch_size) / (config.lr_ramp_kimg * 1000)) if config.lr_ramp_kimg else 1.0
        mine = draws.part(self.processes.rank, self.processes.world_size).to(self.processes.device)
        losses = self.step(
            batch, mine, discriminator_steps=self.pace.steps, augment_probability=self.pace.augment, lr_scale=ramp
        )
        self.images_seen += config.batch_size
        self.pace.observe(losses)
        with self.autoencoder.gathered():
            self.ema.update(self.autoencoder.module, self.images_seen, config.batch_size)
        return losses

    def _agree(self, stop: bool) -> bool:
        """Makes all processes take the same decisions: whether to stop, how often to train the discriminator."""
        mine = torch.cat([torch.tensor([float(stop)]), self.pace.measured.cpu()]).to(self.processes.device)
        anyone, margin, sign = self.processes.mean(mine).tolist()
        self.pace.decide(margin, sign, AGREE_EVERY * self.config.batch_size)
        return anyone > 0

    def _passed(self, kimg: float) -> bool:
        """Whether the last step crossed a multiple of `kimg` thousand images."""
        interval, seen = kimg * 1000, self.images_seen
        return seen // interval > (seen - self.config.batch_size) // interval

    def _finish(self, metrics: dict[str, Any], report: Report, finished: bool) -> dict[str, Any]:
        folder = self._checkpoint() if self._is_new() else None
        self._snapshot()
        bundle = self.out / "bundle"
        if self.processes.rank == 0:
            network = self.ema.network
            info = {
                "training": {"config": to_mapping(self.config), "images_seen": self.images_seen},
                "data": {"fingerprint": self.fingerprint, "portraits": len(self.source.dataset)},
            }
            seen = picture_names(self.source.dataset.portrait(i).id for i in range(len(self.source.dataset)))
            save_bundle(bundle, network.generator, network.encoder, info, training_pictures=seen)
            end = "done" if finished else "stopped; the same command continues"
            log.info("%.1f kimg seen, %s; bundle: %s", self.images_seen / 1000, end, bundle)
        self.processes.wait()
        metrics = {**metrics, "finished": finished, "bundle": str(bundle)}
        report(metrics, folder)
        return metrics

    def _is_new(self) -> bool:
        newest = checkpoint.latest(self.out)
        return newest is None or newest.name != checkpoint.folder_name(self.images_seen)

    def _checkpoint(self) -> Path | None:
        """Writes a checkpoint; returns it where this process wrote a part of it."""
        folder = checkpoint.begin(self.out, self.images_seen)
        self.processes.wait()
        self.autoencoder.save(folder, "autoencoder")
        self.discriminator.save(folder, "discriminator")
        if self.processes.local_rank == 0:
            checkpoint.save_module(self.ema.network, folder / "ema.safetensors")
            state = {
                "images_seen": self.images_seen,
                "pace": self.pace.state(),
                "data_fingerprint": self.fingerprint,
                "config": to_mapping(self.config),
            }
            checkpoint.write_state(folder, state)
        self.processes.wait()
        final = folder.with_name(checkpoint.folder_name(self.images_seen))
        if self.processes.local_rank == 0:
            checkpoint.commit(folder, self.config.keep_checkpoints)
        self.processes.wait()
        wrote = self.processes.rank == 0 or self.config.strategy == "deepspeed"
        return final if wrote else None

    def _continue(self, folder: Path | None) -> None:
        if folder is None:
            return
        state = checkpoint.read_state(folder)
        checkpoint.refuse_other_run(state, to_mapping(self.config), self.fingerprint, self.out)
        self.autoencoder.load(folder, "autoencoder")
        self.discriminator.load(folder, "discriminator")
        checkpoint.load_module(self.ema.network, folder / "ema.safetensors")
        self.images_seen = state["images_seen"]
        self.pace.restore(state["pace"])
        if self.processes.rank == 0:
            forget_after(self.out / "metrics.jsonl", self.images_seen / 1000)
            log.info("continuing %s", folder)

    def _log(self, meter: Meter, total: int, started: float) -> dict[str, Any]:
        means, speed = meter.read(self.images_seen, self.processes)
        metrics = {
            "kimg": self.images_seen / 1000,
            "images_per_second": round(speed, 2),
            "minutes": round((time.monotonic() - started) / 60, 3),
            "discriminator_steps": self.pace.steps,
            "augment_probability": round(self.pace.augment, 4),
            **{name: round(value, 5) for name, value in means.items()},
        }
        if self.processes.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
            left = (total - self.images_seen) / speed
            if self.config.max_minutes is not None:
                left = min(left, max(0.0, self.config.max_minutes * 60 - (time.monotonic() - started)))
            shown = "  ".join(f"{name} {value:.3g}" for name, value in means.items() if not name.startswith("share/"))
            log.info("kimg %.2f  %.1f images/s  ETA %s  %s", metrics["kimg"], speed, clock(left), shown)
        return metrics

    def _snapshot(self) -> None:
        """Writes a sample grid and the newest weights."""
        with self.discriminator.gathered():
            if self.processes.rank != 0:
                return
            folder = self.out / "weights"
            folder.mkdir(parents=True, exist_ok=True)
            networks: dict[str, nn.Module] = {
                "generator": self.ema.network.generator,
                "encoder": self.ema.network.encoder,
                "discriminator": self.discriminator.module,
            }
            for name, network in networks.items():
                checkpoint.save_module(network, folder / f".{name}", torch.bfloat16)
                (folder / f".{name}").rename(folder / f"{name}.safetensors")
        grid = self.out / "snapshots" / f"{checkpoint.folder_name(self.images_seen)}.png"
        write_grid(grid, self.ema.network, self._shown)

    def _sitters(self) -> Batch:
        """Evenly spread portraits of the training data."""
        indices = torch.linspace(0, len(self.source.dataset) - 1, SITTERS).long().numpy()
        return self.source.take(indices)


def _is_over(config: TrainingConfig, started: float) -> bool:
    return config.max_minutes is not None and time.monotonic() - started >= config.max_minutes * 60


@contextmanager
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """Turns SIGTERM (a cluster takes the machine back) into a flag, where this thread may."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Ray Train runs the loop in another thread and handles signals itself.
        yield stopping
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGTERM, before)
