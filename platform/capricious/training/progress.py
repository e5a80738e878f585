"""What a run knows of itself: means of the losses, speed, and how long it waited for its pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

import torch

from capricious.training.strategy import Processes

Item = TypeVar("Item")


class Meter:
    """Sums losses on the device, so that only a progress line waits for it."""

    def __init__(self, images_seen: int, now: float):
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._waited = 0.0
        self._since, self._images = now, images_seen

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Takes in the losses of one step."""
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def waiting_for(self, items: Iterator[Item]) -> Iterator[Item]:
        """Passes items on and counts the seconds that each takes to come."""
        while True:
            asked = time.monotonic()
            item = next(items)
            self._waited += time.monotonic() - asked
            yield item

    def read(self, images_seen: int, processes: Processes) -> dict[str, float]:
        """Returns the means over steps and processes since the last call, with "images_per_second" and "data_wait"."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        names = sorted(self._sums)
        sums = [self._sums[n] / self._counts[n] for n in names]
        wait = torch.tensor(self._waited / seconds, device=sums[0].device)
        *means, wait_share = processes.mean(torch.stack([*sums, wait])).tolist()
        speed = (images_seen - self._images) / seconds
        self._sums, self._counts, self._waited = {}, {}, 0.0
        self._since, self._images = time.monotonic(), images_seen
        losses = {name: round(mean, 5) for name, mean in zip(names, means, strict=True)}
        return {"images_per_second": round(speed, 2), "data_wait": round(wait_share, 4), **losses}


def clock(seconds: float) -> str:
    """Writes a duration as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
