"""What a run says of itself: means of the losses, speed, and the time that is left."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from capricious.training.strategy import Processes


class Meter:
    """Sums losses on the device, so that only a progress line waits for it."""

    def __init__(self, images_seen: int, now: float):
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._since, self._images = now, images_seen

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self, images_seen: int, processes: Processes) -> tuple[dict[str, float], float]:
        """Returns the means over steps and processes since the last call, and images per second."""
        names = sorted(self._sums)
        means = processes.mean(torch.stack([self._sums[n] / self._counts[n] for n in names])).tolist()
        now = time.monotonic()
        speed = (images_seen - self._images) / max(now - self._since, 1e-9)
        self._sums, self._counts, self._since, self._images = {}, {}, now, images_seen
        return dict(zip(names, means, strict=True)), speed


def clock(seconds: float) -> str:
    """Writes a duration as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def forget_after(path: Path, kimg: float) -> None:
    """Drops the lines of a metrics file that lie after a checkpoint: they will be written again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["kimg"] <= kimg]
        path.write_text("".join(kept), encoding="utf-8")
