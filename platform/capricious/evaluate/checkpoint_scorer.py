"""The cheap part of the evaluation, for a training's checkpoints: some held-out sitters at a few ages.

Training calls it with the network that it is about to save and learns nothing from it: the judge is in no loss.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from capricious.data.records import Portrait
from capricious.errors import CapriciousError
from capricious.evaluate.age import age_measures
from capricious.evaluate.faceres import Faceres
from capricious.faces.label_map import resize_label_map
from capricious.model.generator import Generator

AGES = (15.0, 35.0, 55.0, 75.0)
SITTERS = 32

SCORE = "evaluate/score"
"""The harmonic mean of age slope and identity, both cut to 0…1: 0 for a network that ignores age, and for one that
forgets the sitter; 1 for one that obeys and keeps."""


class Portraits(Protocol):
    """What is read of a prepared dataset."""

    def __len__(self) -> int: ...

    def portrait(self, index: int) -> Portrait: ...


class Autoencoder(Protocol):
    """What training hands over: the networks to release, in eval mode, on one device."""

    generator: Generator

    def render(self, image: Tensor, label_map: Tensor, own: Tensor, requested: Tensor) -> Tensor:
        """Returns one sitter with each of the requested attributes, as trained to be delivered."""
        ...


class CheckpointScorer:
    """Scores what an autoencoder delivers: "evaluate/score", "age/slope", "age/mae", "identity/cosine".

    Pictures that are put back into their portraits in training are judged so.

    Args:
        portraits: held-out ones; at most SITTERS of them are used, spread evenly.
        resolution: of the network.
        threads: CPU threads of the judge.

    Raises:
        CapriciousError: no portraits, or the judge's weights cannot be had.
    """

    names: tuple[str, ...] = (SCORE, "age/slope", "age/mae", "identity/cosine")

    def __init__(self, portraits: Portraits, resolution: int, threads: int = 1):
        if not len(portraits):
            raise CapriciousError("checkpoints are scored on held-out portraits, but there are none")
        count = min(SITTERS, len(portraits))
        chosen = [portraits.portrait(i * len(portraits) // count) for i in range(count)]
        faces = [portrait.decoded() for portrait in chosen]
        size = (resolution, resolution)
        images = [np.asarray(Image.fromarray(f.image).resize(size, Image.Resampling.LANCZOS)) for f in faces]
        self._judge = Faceres(threads)
        self._own = self._judge(np.stack(images)).embedding
        self._images = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2) / np.float32(127.5) - 1)
        self._label_maps = torch.from_numpy(np.stack([resize_label_map(f.label_map, resolution) for f in faces]))
        vectors = [[p.attributes.override(age=age).vector() for age in AGES] for p in chosen]
        self._vectors = torch.from_numpy(np.array(vectors))
        self._attributes = torch.from_numpy(np.array([p.attributes.vector() for p in chosen]))

    def __call__(self, autoencoder: Autoencoder) -> dict[str, float]:
        """Renders all sitters at AGES and measures them. A few seconds for small networks on a CPU."""
        estimated, cosine = [], []
        for i in range(len(self._images)):
            found = self._judge(self._rendered(autoencoder, i))
            estimated.append(found.age)
            cosine.append(found.embedding @ self._own[i])
        ages = age_measures(np.array(AGES), np.stack(estimated))
        slope, identity = float(ages.slope.mean()), float(np.mean(cosine))
        score = harmonic_mean(np.clip(slope, 0, 1), np.clip(identity, 0, 1))
        values = round(score, 4), round(slope, 4), round(float(ages.mae.mean()), 3), round(identity, 4)
        return dict(zip(self.names, values, strict=True))

    @torch.no_grad()
    def _rendered(self, autoencoder: Autoencoder, index: int) -> np.ndarray:
        """Returns one sitter at AGES, len(AGES)×R×R×3 uint8."""
        device, row = next(autoencoder.generator.parameters()).device, slice(index, index + 1)
        pictures = autoencoder.render(
            self._images[row].to(device),
            self._label_maps[row].to(device),
            self._attributes[row].to(device),
            self._vectors[index].to(device),
        )
        levels = (pictures.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu().numpy()


def harmonic_mean(one: float, other: float) -> float:
    """Returns the harmonic mean of two numbers that are not negative; 0 if either is."""
    return float(2 * one * other / (one + other)) if one > 0 and other > 0 else 0.0
