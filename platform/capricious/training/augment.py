"""Everything random in a training step, drawn from (seed, images seen) alone.

No generator has a state that must be saved: the draws of a batch are a pure function of its position.
That is why a resumed run continues bit for bit, and why two ranks with half a batch each draw what one
process draws for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from capricious.faces.attributes import EMOTIONS, GLASSES, VECTOR_FIELDS, VECTOR_SIZE
from capricious.model.layers import constant
from capricious.training import estimator_view, painterly, pair_augment
from capricious.training.batches import on_device

AGE, GENDER = VECTOR_FIELDS.index("age/100"), VECTOR_FIELDS.index("gender")
AGE_KNOWN, GENDER_KNOWN = VECTOR_FIELDS.index("known:age"), VECTOR_FIELDS.index("known:gender")

# Which known bit each entry of the attribute vector depends on: 1 age, 1 gender, 3 glasses, 1 smile, 8 emotions.
_GROUP_SIZES = (1, 1, len(GLASSES), 1, len(EMOTIONS))
_GROUP_OF = (*(g for g, n in enumerate(_GROUP_SIZES) for _ in range(n)), *range(len(_GROUP_SIZES)))
assert len(_GROUP_OF) == VECTOR_SIZE


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step for a batch of B samples.

    Attributes:
        flip: B bool, mirror this sample.
        noise: B×latent, standard normal: ε of the style code z = μ + εσ.
        dropped: B×5 bool, attribute groups to hide.
        swap: whether this step renders the sitters at other ages too.
        age: B, requested years of the swap.
        flip_gender: B bool, the swap asks for the other gender.
        pair, view, paint: uniform in 0…1 for each sample, for `pair_augment`, `estimator_view` and `painterly`.
        step: number of the step.
    """

    flip: torch.Tensor
    noise: torch.Tensor
    dropped: torch.Tensor
    swap: bool
    age: torch.Tensor
    flip_gender: torch.Tensor
    pair: torch.Tensor
    view: torch.Tensor
    paint: torch.Tensor
    step: int

    @property
    def dropped_but_age(self) -> torch.Tensor:
        """Like `dropped`, but the age, the first group, is never hidden."""
        return self.dropped & (torch.arange(len(_GROUP_SIZES), device=self.dropped.device) > 0)

    def to(self, device: torch.device) -> Draws:
        """Moves the tensors to a device."""
        return self._each(lambda tensor: on_device(tensor, device))

    def part(self, rank: int, world_size: int) -> Draws:
        """Returns the draws of one rank's share of the batch."""
        share = len(self.flip) // world_size
        return self._each(lambda tensor: tensor[rank * share : (rank + 1) * share])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Draws:
        changed: dict[str, Any] = {k: change(v) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **changed)


def draw(
    seed: int,
    images_seen: int,
    batch_size: int,
    *,
    latent: int,
    flip: float = 0.5,
    dropout: float = 0.1,
    swap: float = 0.0,
    ages: tuple[float, float] = (10.0, 80.0),
    gender_swap: float = 0.0,
) -> Draws:
    """Draws for the global batch that begins at `images_seen`.

    Args:
        batch_size: of all ranks together.
        flip, dropout, gender_swap: probabilities per sample.
        swap: probability per step.
        ages: lowest and highest requested age; uniform in between, whatever the ages in the data
            (real labels confound age with gender and glasses).
    """
    words = np.random.SeedSequence([seed, images_seen]).generate_state(2)
    random = torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random)

    return Draws(
        flip=uniform(batch_size) < flip,
        noise=torch.randn(batch_size, latent, generator=random),
        dropped=uniform(batch_size, len(_GROUP_SIZES)) < dropout,
        swap=bool(uniform(1) < swap),
        age=ages[0] + (ages[1] - ages[0]) * uniform(batch_size),
        flip_gender=uniform(batch_size) < gender_swap,
        pair=uniform(batch_size, pair_augment.NUMBERS),
        view=uniform(batch_size, estimator_view.NUMBERS),
        paint=uniform(batch_size, painterly.NUMBERS),
        step=images_seen // batch_size,
    )


def mirror(images: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Mirrors those of B×…×W where `flip` (B bool) is set. Right for label maps too: no class has a side."""
    shape = (-1,) + (1,) * (images.ndim - 1)
    return torch.where(flip.view(shape), images.flip(-1), images)


def drop_attributes(attributes: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    """Makes groups of B×19 attribute vectors unknown (value and known bit 0) where `dropped` (B×5) is set.

    So the network learns to fill in what a user leaves out, and datasets without a label do not stand apart.
    """
    return attributes.masked_fill(dropped[:, constant(_GROUP_OF, torch.int64, dropped.device)], 0.0)


def request(attributes: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Returns B×19 attributes with the drawn ages, and the other gender where drawn and the own one is known."""
    wanted = attributes.clone()
    wanted[:, AGE], wanted[:, AGE_KNOWN] = draws.age / 100.0, 1.0
    other = 1.0 - attributes[:, GENDER]
    wanted[:, GENDER] = torch.where(
        draws.flip_gender & (attributes[:, GENDER_KNOWN] > 0.5), other, attributes[:, GENDER]
    )
    return wanted
