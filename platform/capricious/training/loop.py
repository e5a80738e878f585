"""The training loop: steps, progress lines, sample grids, checkpoints, and the bundle at the end.

::

    out/metrics.jsonl            one line per progress report
    out/events/                  the same for TensorBoard
    out/snapshots/*.png          sample grids
    out/weights/*.safetensors    newest weights in bf16, to warm-start another run from
    out/checkpoints/             to continue this run: start the same command again
    out/bundle/                  EMA weights of generator and encoder; written when the run ends
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from capricious.errors import ConfigError
from capricious.training import augment
from capricious.training import strategy as strategies
from capricious.training.batches import Batch, BatchSource
from capricious.training.config import TrainingConfig
from capricious.training.datasets import JoinedDatasets
from capricious.training.ema import Ema
from capricious.training.judges import calibrated, new_judges
from capricious.training.networks import new_networks
from capricious.training.observers import Observer
from capricious.training.outputs import Outputs
from capricious.training.pace import Pace
from capricious.training.progress import Meter
from capricious.training.recorded_step import new_step
from capricious.training.score import Scorer, held_out_scorer
from capricious.training.state import TrainingState
from capricious.training.stopping import Notice, Notices, sigterm_notices
from capricious.training.strategy import Strategy
from capricious.training.warm_start import NO_PICTURES, warm_start

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any], str | None], None]
"""Called on every process after each checkpoint with the metrics and the checkpoint (None where there is no new one).
"""

Feed = Callable[[int, torch.device], Iterator[Batch]]
"""Yields this process's share of each global batch from a position on: what BatchSource.batches would yield."""

AGREE_EVERY = 4
"""Steps after which the processes agree on stopping and on the pace of the discriminator: each time costs a wait."""


def train(
    config: TrainingConfig,
    *,
    data: str | Sequence[str],
    out: str,
    strategy: Strategy | None = None,
    report: Report | None = None,
    scorers: Sequence[Scorer] = (),
    feed: Feed | None = None,
    notices: Notices | None = None,
    observers: Sequence[Observer] = (),
) -> dict[str, Any]:
    """Trains until `kimg` or `max_minutes` is reached or a notice to stop comes, and writes the bundle.

    The newest checkpoint in `out` is continued, as if the run had never stopped. All processes call this alike.

    Args:
        data: prepared datasets; their "train" splits are learnt.
        out: a folder that all processes share, or an s3:// address.
        strategy: None for the one that the configuration names.
        report: see `Report`.
        scorers: score each checkpoint, besides the reconstruction of held-out portraits; of the first process.
        feed: decodes pictures elsewhere; None for threads of this process.
        notices: None for SIGTERM to this process.
        observers: told of the metrics, besides those that the configuration names.

    Returns:
        The last metrics: "kimg", "finished" (bool: all of `kimg` was seen), "bundle" (folder or URL), and losses.

    Raises:
        CapriciousError: the data is not usable, `out` is not shared, or holds a run with other settings.
    """
    started = time.monotonic()
    spread = strategy or strategies.create(config)
    paths = [data] if isinstance(data, str) else list(data)
    try:
        with sigterm_notices() as sigterm:
            run = Run(config, spread, data=paths, out=out, scorers=scorers, feed=feed, observers=observers)
            try:
                return run.go(started, notices or sigterm, report or (lambda metrics, checkpoint: None))
            finally:
                run.outputs.close()
    finally:
        if strategy is None:
            spread.processes.close()


class Run:
    """Everything that one run holds. Training continues where the newest checkpoint left off."""

    def __init__(
        self,
        config: TrainingConfig,
        spread: Strategy,
        *,
        data: Sequence[str],
        out: str,
        scorers: Sequence[Scorer] = (),
        feed: Feed | None = None,
        observers: Sequence[Observer] = (),
    ):
        self.config, self.processes, self._feed = config, spread.processes, feed
        device = self.processes.device
        self.source = BatchSource(
            JoinedDatasets(data, "train"),
            resolution=config.resolution,
            batch_size=config.batch_size,
            seed=config.seed,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            device=device,
            balance=config.balance,
            shares=config.data_shares,
            memory_budget=0 if feed is not None else int(config.memory_budget_gb * 2**30),
            workers=config.num_workers,
        )
        if config.mismatched and self.source.share < 2:
            raise ConfigError(
                "training.mismatched needs at least two pictures in each process: it shows the discriminator a sitter "
                f"with another one's attributes; training.batch_size is {config.batch_size}"
            )
        if self.processes.rank == 0:
            log.info("strategy %s, %d process(es), device %s", config.strategy, self.processes.world_size, device)
        autoencoder, discriminator = new_networks(config)
        learnt_before = NO_PICTURES
        if config.warm_start is not None:
            learnt_before = warm_start(config.warm_start, autoencoder, discriminator, config.seed)
        ema = Ema(autoencoder, config.ema_kimg * 1000)
        self.state = TrainingState(
            autoencoder=spread.player(autoencoder, config.lr_generator),
            discriminator=spread.player(discriminator, config.lr_discriminator),
            ema=ema,
            pace=Pace(config),
        )
        ema.network.to(device)
        if config.channels_last:  # laid out as the weights are, so that all are averaged in few passes
            ema.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        judges = calibrated(new_judges(config, device), config, self.source)
        self.step = new_step(config, self.state.autoencoder, self.state.discriminator, judges)
        # With learns refinement the generator stays, and so would this score.
        if self.processes.rank == 0 and config.learns == "all":
            reconstruction = held_out_scorer(data, config.resolution, device)
            scorers = [reconstruction, *scorers] if reconstruction else scorers
        self.outputs = Outputs(
            config,
            self.processes,
            self.state,
            self.source,
            out=out,
            scorers=scorers,
            told=observers,
            learnt_before=learnt_before,
        )

    def go(self, started: float, notices: Notices, report: Report) -> dict[str, Any]:
        """Runs to the end; see `train`."""
        config, state, total = self.config, self.state, round(self.config.kimg * 1000)
        self.outputs.resume()
        meter = Meter(state.images_seen, time.monotonic())
        batches = meter.waiting_for(self._batches())
        metrics: dict[str, Any] = {"kimg": state.images_seen / 1000}
        notice = Notice.NONE
        while state.images_seen < total and notice < Notice.STOP:
            meter.add(self._one_step(next(batches)))
            steps, before = state.images_seen // config.batch_size, notice
            if steps % AGREE_EVERY == 0:
                told = notices()  # by all, always: it may wait for the others
                notice = self._agree(Notice.STOP if _is_over(config, started) else told)
            ends = notice == Notice.STOP or state.images_seen >= total
            if steps % config.log_every == 0 or ends:
                metrics = self.outputs.log(meter, started)
            if ends:
                break
            # A notice to save is answered once, when it comes, not as long as it stands.
            if self._passed(config.checkpoint_kimg) or notice > before:
                report(*self.outputs.checkpoint(metrics))
            elif self._passed(config.snapshot_kimg):
                self.outputs.snapshot()
        metrics, checkpoint = self.outputs.finish(metrics, finished=state.images_seen >= total)
        report(metrics, checkpoint)
        return metrics

    def _batches(self) -> Iterator[Batch]:
        if self._feed is not None:
            return self._feed(self.state.images_seen, self.processes.device)
        return self.source.batches(self.state.images_seen)

    def _one_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        config, state = self.config, self.state
        seen = state.images_seen
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
        pace = state.pace
        for player in (state.autoencoder, state.discriminator):
            player.scale_rate(ramp)
        losses = self.step(batch, mine, discriminator_steps=pace.steps, augment_probability=pace.augment)
        state.images_seen += config.batch_size
        pace.observe(losses)
        with state.autoencoder.gathered():
            state.ema.update(state.autoencoder.module, state.images_seen, config.batch_size)
        return losses

    def _agree(self, notice: Notice) -> Notice:
        """Makes all processes take the same decisions: on the gravest notice, and on the discriminator's pace."""
        told = [float(notice >= Notice.SAVE), float(notice >= Notice.STOP)]
        mine = torch.tensor([*told, *self.state.pace.measured.tolist()], device=self.processes.device)
        save, stop, margin, sign = self.processes.mean(mine).tolist()
        self.state.pace.decide(margin, sign, AGREE_EVERY * self.config.batch_size)
        return Notice.STOP if stop else Notice.SAVE if save else Notice.NONE

    def _passed(self, kimg: float) -> bool:
        """Whether the last step crossed a multiple of `kimg` thousand images."""
        interval, seen = kimg * 1000, self.state.images_seen
        return seen // interval > (seen - self.config.batch_size) // interval


def _is_over(config: TrainingConfig, started: float) -> bool:
    return config.max_minutes is not None and time.monotonic() - started >= config.max_minutes * 60
