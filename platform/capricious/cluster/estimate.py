"""What a render will cost before it is started: a few portraits are rendered for real, and nothing is written."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from capricious.cluster.plan import Plan
from capricious.cluster.render import asked, located
from capricious.cluster.render_config import Gate, RenderConfig
from capricious.cluster.render_shard import RenderShard
from capricious.data.collections import Source
from capricious.errors import CapriciousError
from capricious.render.picture import SweepResult

SAMPLE = 6
"""Portraits that are rendered; the first of them once before, untimed, to warm up."""


@dataclass(frozen=True)
class Estimate:
    """What a render will cost; times are of one worker on this machine.

    Attributes:
        portraits, skipped: in the collection, and how many of them rights gate and exclusion list leave out.
        products: files of each portrait.
        sampled, failed: portraits that were tried, and how many of them cannot be rendered.
        seconds, bytes: of one portrait that can be rendered, with its share of those that cannot.
    """

    portraits: int
    skipped: int
    products: int
    sampled: int
    failed: int
    seconds: float
    bytes: float

    def text(self, workers: int) -> str:
        """Says it in a few lines."""
        portraits = self.portraits - self.skipped
        hours = portraits * self.seconds / 3600
        rows = portraits * self.products
        files_per_second = self.products / self.seconds if self.seconds else 0.0
        return (
            f"{self.portraits} portraits, {self.skipped} left out by rights or exclusion list; "
            f"{rows} files to make ({self.products} each)\n"
            f"{self.sampled} tried, {self.failed} failed; {self.seconds:.2f} s and {self.bytes / 2**20:.2f} MB "
            f"a portrait, {files_per_second:.2f} files/s a worker\n"
            f"about {hours:.2f} CPU hours, {hours / workers:.2f} hours with {workers} workers, "
            f"{portraits * self.bytes / 2**30:.2f} GB"
        )


def estimate(config: RenderConfig) -> Estimate:
    """Lists the collection and renders a random sample of it in this process, without Ray.

    Raises:
        CapriciousError: nothing to render, or bundle or weights are missing.
    """
    config = located(config)
    stated = any(source.license for source in config.sources())
    gate, draw = Gate(config, stated), random.Random(0)
    sample: list[Source] = []
    portraits = skipped = 0
    for source in config.sources():  # reservoir sampling: every portrait has the same chance, none is kept
        portraits += 1
        if gate.check(source):
            skipped += 1
            continue
        place = draw.randrange(portraits - skipped)
        if len(sample) < SAMPLE:
            sample.append(source)
        elif place < SAMPLE:
            sample[place] = source
    if not portraits:
        raise CapriciousError(f"{config.source} has no files")
    sample = list(config.looked_up(sample))
    worker = RenderShard(config, Plan(config.out, {**asked(config), "rights_stated": int(stated)}))
    _sizes(worker, sample[:1])
    started = time.perf_counter()
    sizes = _sizes(worker, sample)
    seconds = time.perf_counter() - started
    count = max(1, len(sizes))
    products = len(config.deliverables.products(config.sweep))
    failed = len(sample) - len(sizes)
    return Estimate(portraits, skipped, products, len(sample), failed, seconds / count, sum(sizes) / count)


def _sizes(worker: RenderShard, sample: list[Source]) -> list[int]:
    """Returns the bytes of each portrait that can be rendered."""

    def size(source: Source, result: SweepResult, data: bytes) -> int:
        return sum(len(content) for _, _, content in worker.files(result, data))

    return [found for _, found in worker.each(sample, size) if isinstance(found, int)]
