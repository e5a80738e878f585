"""Batches for the student: which targets, in which order, augmented how; all of it follows from the seed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from capricious.annotate.attributes import wears_glasses
from capricious.annotate.distill.measure import teachers_parsing
from capricious.annotate.distill.painterly import painterly
from capricious.annotate.distill.targets import Target
from capricious.annotate.unet import normalise


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        images: B×3×S×S uint8.
        soft_labels: B×3×S/2×S/2 uint8: probability of skin, hair and glasses, times 255.
    """

    images: Tensor
    soft_labels: Tensor

    def on(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns the images, ImageNet-normalised, and the probabilities in 0…1, both float32 on a device.

        They travel there as bytes, a quarter of that.
        """
        return normalise(self.images.to(device).float() / 255.0), self.soft_labels.to(device).float() / 255.0


def as_batch(pairs: list[tuple[np.ndarray, np.ndarray]], size: int) -> Batch:
    """Turns pairs of crop and soft labels (H×H×3 uint8) into a batch for a student that sees size×size."""
    images = np.stack([_resized(image, size) for image, _ in pairs])
    labels = np.stack([_resized(label, size // 2) for _, label in pairs])
    return Batch(*(torch.from_numpy(array.transpose(0, 3, 1, 2)) for array in (images, labels)))


def _resized(pixels: np.ndarray, size: int) -> np.ndarray:
    return pixels if pixels.shape[0] == size else cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)


WEARERS = 4.0
"""How much more often sitters with glasses are drawn: they are one in twenty."""


def balance(collections: list[str], wears_glasses: list[bool]) -> np.ndarray:
    """Returns how likely each target is to be drawn; float64, sums to 1.

    A collection is drawn in proportion to the square root of its size: a few hundred paintings are neither
    drowned by thousands of photographs nor learnt by heart.
    """
    _, which, sizes = np.unique(collections, return_inverse=True, return_counts=True)
    weights = np.where(wears_glasses, WEARERS, 1.0) / np.sqrt(sizes[which])
    return weights / weights.sum()


class BatchSource:
    """Draws and augments batches, one ahead of the training step.

    Batch n of rank r is the same in every run with the same seed and targets, so a resumed run goes on as if
    it had never stopped.
    """

    def __init__(self, targets: list[Target], batch_size: int, seed: int, rank: int = 0, *, worn_share: float):
        self._targets = targets
        worn = [wears_glasses(teachers_parsing(target.decoded()[1])) for target in targets]
        self._likely = balance([target.collection for target in targets], worn)
        self._batch_size, self._seed, self._rank = batch_size, seed, rank
        self._augment = painterly(worn_share)

    def batch(self, number: int, size: int) -> Batch:
        """Returns batch `number` for a student that sees size×size."""
        draw = np.random.default_rng([self._seed, number, self._rank])
        pairs = []
        for index in draw.choice(len(self._targets), self._batch_size, p=self._likely):
            image, soft_labels = self._targets[index].decoded()
            self._augment.set_random_seed(int(draw.integers(2**31)))
            worn = self._augment(image=image, mask=soft_labels)
            pairs.append((worn["image"], worn["mask"]))
        return as_batch(pairs, size)

    def stream(self, first: int, sizes: list[int], loaders: int = 0) -> Iterator[Batch]:
        """Yields batches first, first + 1, …, one for each entry of `sizes`, while the next are being made.

        Args:
            loaders: processes that make them; 0 for a thread of this one, which is enough for a student on a CPU.
        """
        if loaders:
            # Not forked: OpenCV's threads would not come along, and it would wait for them.
            yield from DataLoader(
                _Numbered(self, first, sizes),
                batch_size=None,
                num_workers=loaders,
                worker_init_fn=_one_thread,
                multiprocessing_context="forkserver",
            )
            return
        with ThreadPoolExecutor(1) as ahead:  # one thread: the augmentation holds random state
            waiting = [ahead.submit(self.batch, first + i, size) for i, size in enumerate(sizes[:2])]
            for i in range(len(sizes)):
                batch = waiting.pop(0).result()
                if i + 2 < len(sizes):
                    waiting.append(ahead.submit(self.batch, first + i + 2, sizes[i + 2]))
                yield batch


class _Numbered(Dataset[Batch]):
    """A stretch of a source's batches, by number."""

    def __init__(self, source: BatchSource, first: int, sizes: list[int]):
        self._source, self._first, self._sizes = source, first, sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, i: int) -> Batch:
        return self._source.batch(self._first + i, self._sizes[i])


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)  # there is a process for each core already
