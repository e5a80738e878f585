"""How many updates the discriminator gets for each of the generator's."""

from __future__ import annotations

from typing import Literal

import torch


class DiscriminatorPace:
    """A fixed number, or the paper's remedy against collapse: 2:1 while the discriminator is behind.

    It is behind when its mean logits of real and fake pictures hardly differ (the hinge loss asks for a
    difference of 2): the generator then gets no direction from it. Two thresholds keep the pace from
    changing at every look.

    Attributes:
        steps: updates of the discriminator per step.
        margin: running mean of D(real) − D(fake), a scalar on the device (never read at every step).
    """

    BEHIND, CAUGHT_UP = 0.2, 0.6
    MEMORY = 0.98  # the running mean looks back about 50 steps

    def __init__(self, discriminator_steps: int | Literal["auto"]):
        self.automatic = discriminator_steps == "auto"
        self.steps = 1 if discriminator_steps == "auto" else discriminator_steps
        # Halfway to the hinge: a fresh discriminator gets time before it is judged.
        self.margin = torch.tensor(1.0)

    def observe(self, margin: torch.Tensor) -> None:
        """Takes in D(real) − D(fake) of one step."""
        self.margin = self.margin.to(margin.device).lerp(margin.detach().float(), 1.0 - self.MEMORY)

    def decide(self, margin: float) -> None:
        """Sets the pace by the margin that the processes have agreed on."""
        if self.automatic and margin < self.BEHIND:
            self.steps = 2
        elif self.automatic and margin > self.CAUGHT_UP:
            self.steps = 1

    def state(self) -> dict[str, float | int]:
        """What a checkpoint keeps."""
        return {"steps": self.steps, "margin": float(self.margin)}

    def restore(self, state: dict[str, float | int]) -> None:
        """Inverse of state(). A fixed pace is the configuration's and stays."""
        if self.automatic:
            self.steps = int(state["steps"])
        self.margin = torch.tensor(float(state["margin"]))
