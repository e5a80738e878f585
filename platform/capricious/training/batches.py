"""Which portraits a step sees, as tensors: a pure function of (seed, position)."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from capricious.data.records import Portrait
from capricious.errors import CapriciousError, ConfigError
from capricious.faces import image as image_io
from capricious.faces.align import outside_distance
from capricious.faces.label_map import CLASSES, resize_label_map
from capricious.training.balance import Balance, balanced_weights
from capricious.training.datasets import share_weights


class Portraits(Protocol):
    """What is read of `data.prepared.PreparedDataset`; tests bring their own."""

    resolution: int
    fingerprint: str

    def __len__(self) -> int: ...

    def portrait(self, index: int) -> Portrait: ...


@dataclass(frozen=True)
class Batch:
    """B samples of one step.

    Attributes:
        image: B×3×R×R float32, −1…1.
        label_map: B×R×R uint8 of the seven classes.
        inside: B×R×R bool: where the crop shows its source picture, not what was invented beyond its edge.
        attributes: B×19 float32 (faces.attributes.VECTOR_FIELDS).
    """

    image: torch.Tensor
    label_map: torch.Tensor
    inside: torch.Tensor
    attributes: torch.Tensor


class Order:
    """The endless order in which portraits are shown; any stretch of it can be had without the stretch before.

    Without weights each epoch is a permutation drawn from (seed, epoch). With weights, portraits are
    drawn with replacement, block by block of the dataset's size.

    Args:
        size: number of portraits.
        seed: of the order.
        weights: `size` relative frequencies, or None.
    """

    def __init__(self, size: int, seed: int, weights: np.ndarray | None = None):
        self.size, self.seed = size, seed
        self.weights = None if weights is None else weights / weights.sum()
        self._newest = -1, np.empty(0, np.int64)

    def indices(self, position: int, count: int) -> np.ndarray:
        """Returns the int64 dataset indices of the images number `position` … `position + count − 1`."""
        out = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, start = divmod(position + done, self.size)
            part = self._epoch_order(epoch)[start : start + count - done]
            out[done : done + len(part)] = part
            done += len(part)
        return out

    def _epoch_order(self, epoch: int) -> np.ndarray:
        newest, order = self._newest  # in one piece: threads share it
        if epoch != newest:
            random = np.random.default_rng([self.seed, epoch])
            if self.weights is None:
                order = random.permutation(self.size)
            else:
                order = random.choice(self.size, self.size, p=self.weights)
            self._newest = epoch, order
        return order


class Decoded(NamedTuple):
    """Pixels of n portraits: n×3×R×R uint8 images, n×R×R uint8 label maps, n×R×R bool `inside` (see Batch)."""

    image: np.ndarray
    label_map: np.ndarray
    inside: np.ndarray


class PortraitStream:
    """The endless stream of portraits that a run sees, from any position on. It can be pickled, and used by threads.

    Args:
        dataset: a PreparedDataset, or one like it.
        resolution: of the decoded pictures; the dataset's own or smaller.
        balance: see `balanced_weights`.
        shares: how often each dataset of `dataset.sizes` is shown, in proportion; None for by size.

    Attributes:
        attributes: N×19 float32, one row for each portrait of the dataset.

    Raises:
        ConfigError: the dataset is smaller than `resolution`, or there are not as many shares as datasets.
    """

    def __init__(
        self,
        dataset: Portraits,
        *,
        resolution: int,
        seed: int,
        balance: Balance = "none",
        shares: tuple[float, ...] | None = None,
    ):
        if resolution > dataset.resolution:
            raise ConfigError(
                f"training.resolution is {resolution}, but the dataset was prepared at {dataset.resolution} px; "
                f"prepare it again with a resolution of at least {resolution}"
            )
        self.dataset, self.resolution = dataset, resolution
        known = [dataset.portrait(i).attributes for i in range(len(dataset))]
        self.attributes = np.stack([attributes.vector() for attributes in known])
        weights = balanced_weights(known, balance)
        if shares is not None:
            weights = share_weights(getattr(dataset, "sizes", (len(dataset),)), shares, weights)
        self._order = Order(len(dataset), seed, weights)

    def indices(self, position: int, count: int) -> np.ndarray:
        """Returns which portraits are number `position` … `position + count − 1` of the stream."""
        return self._order.indices(position, count)

    def decode(self, indices: np.ndarray, pool: ThreadPoolExecutor | None = None) -> Decoded:
        """Returns n portraits, decoded by the threads of `pool` if given."""
        each = map if pool is None else pool.map
        images, label_maps, inside = zip(*each(self._decode_one, indices.tolist()), strict=True)
        return Decoded(
            np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)), np.stack(label_maps), np.stack(inside)
        )

    def _decode_one(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return decode_portrait(self.dataset.portrait(index), self.resolution)


class BatchSource:
    """Decodes portraits and hands them out in order, this rank's share of each global batch.

    Each rank keeps the whole set decoded (uint8, on the device) when it fits into `memory_budget`; else every portrait
    is decoded when it is shown, by `workers` threads (Pillow releases the interpreter lock), two batches ahead.

    Args:
        dataset, resolution, seed, balance, shares: see PortraitStream.
        batch_size: of all ranks together.
        device: where the batches are needed.
        memory_budget: bytes of decoded pixels to keep.

    Raises:
        ConfigError: see PortraitStream; or the ranks cannot share the batch evenly.
    """

    def __init__(
        self,
        dataset: Portraits,
        *,
        resolution: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        balance: Balance = "none",
        shares: tuple[float, ...] | None = None,
        memory_budget: int = 4 << 30,
        workers: int = 2,
    ):
        self.stream = PortraitStream(dataset, resolution=resolution, seed=seed, balance=balance, shares=shares)
        if batch_size % world_size:
            raise ConfigError(f"training.batch_size {batch_size} must be a multiple of the {world_size} processes")
        self.dataset = dataset
        self.share, self.batch_size, self.rank = batch_size // world_size, batch_size, rank
        self.device = torch.device(device)
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")
        self.attributes = torch.from_numpy(self.stream.attributes).to(self.device)
        self._decoded: list[torch.Tensor] | None = None
        if decoded_bytes(dataset, resolution) <= memory_budget:
            self._decoded = [pixels.to(self.device) for pixels in self._decode(np.arange(len(dataset)))]

    def batch(self, position: int) -> Batch:
        """Returns this rank's share of the global batch whose first image is number `position`."""
        return self.take(self.stream.indices(position + self.rank * self.share, self.share))

    def batches(self, position: int) -> Iterator[Batch]:
        """Yields batch after batch from `position` on, without end, decoding ahead of the caller."""
        if self._decoded is not None:
            while True:
                yield self.batch(position)
                position += self.batch_size
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
            waiting = deque(ahead.submit(self.batch, position + k * self.batch_size) for k in range(2))
            while True:
                yield waiting.popleft().result()
                position += self.batch_size
                waiting.append(ahead.submit(self.batch, position + self.batch_size))

    def take(self, indices: np.ndarray) -> Batch:
        """Returns the given portraits as one batch."""
        at = on_device(torch.from_numpy(np.asarray(indices, np.int64)), self.device)
        if self._decoded is None:
            image, label_map, inside = (on_device(pixels, self.device) for pixels in self._decode(indices))
        else:
            image, label_map, inside = (pixels[at] for pixels in self._decoded)
        return as_batch(image, label_map, inside, self.attributes[at])

    def _decode(self, indices: np.ndarray) -> list[torch.Tensor]:
        return [torch.from_numpy(pixels) for pixels in self.stream.decode(indices, self._pool)]


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a tensor to a device, to a GPU without waiting for the work that it has been given before."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def as_batch(images: torch.Tensor, label_maps: torch.Tensor, inside: torch.Tensor, attributes: torch.Tensor) -> Batch:
    """Makes a batch of decoded pixels, 0…255, on the device where they are."""
    return Batch(images.float() / 127.5 - 1.0, label_maps, inside, attributes)


def decoded_bytes(dataset: Portraits, resolution: int) -> int:
    """Returns how much memory the whole dataset takes when decoded: five bytes a pixel."""
    return len(dataset) * 5 * resolution**2


def decode_portrait(portrait: Portrait, resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the R×R×3 uint8 image and the R×R uint8 label map of a portrait, and where it is `inside` (see Batch).

    Raises:
        CapriciousError: the stored label map is not an 8-bit map of the seven classes; names the portrait.
    """
    image = image_io.decode(portrait.image, name=portrait.id)
    with Image.open(io.BytesIO(portrait.label_map)) as stored:
        labels = np.asarray(stored)
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.max(initial=0) >= len(CLASSES):
        raise CapriciousError(
            f"label map of portrait {portrait.id} ({portrait.source_uri}) must be one byte a pixel, "
            f"0…{len(CLASSES) - 1}; found {labels.dtype} {labels.shape}, highest value {labels.max(initial=0)}"
        )
    if image.shape[0] != resolution:
        image = np.asarray(Image.fromarray(image).resize((resolution, resolution), Image.Resampling.LANCZOS))
        labels = resize_label_map(labels, resolution)
    return image, labels, inside_of(portrait, resolution)


def inside_of(portrait: Portrait, resolution: int) -> np.ndarray:
    """Returns R×R bool: which pixels of a portrait's crop lie inside of its source picture."""
    if portrait.inside_score >= 1.0:
        return np.ones((resolution, resolution), bool)
    return outside_distance(portrait.quad, resolution, *portrait.source_size) == 0.0
