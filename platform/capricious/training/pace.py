"""What follows the course of the game: the discriminator's updates per step, and the augmentation of its pictures."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from capricious.training.config import TrainingConfig
from capricious.training.strategy import Processes


class Pace:
    """Fixed by the configuration, or automatic.

    *Updates*: the paper's remedy against collapse, 2:1 while the discriminator is behind, that is, while its mean
    logits of real and fake pictures hardly differ (the hinge loss asks for a difference of 2): the generator then gets
    no direction from it. Two thresholds keep the pace from changing at every look.

    *Augmentation*: its probability rises while the discriminator is too sure of real pictures, and falls while it is
    not (ADA, arXiv:2006.06676).

    Attributes:
        steps: updates of the discriminator per step.
        augment: probability of each augmentation of its pictures, 0…1.
        measured: running means of D(real) − D(fake) and of sign D(real); on the device, never read at every step.
    """

    BEHIND, CAUGHT_UP = 0.2, 0.6
    MEMORY = 0.98  # the running means look back about 50 steps

    def __init__(self, config: TrainingConfig):
        self._config = config
        steps, probability = config.discriminator_steps, config.augment.probability
        self.steps = 1 if steps == "auto" else steps
        self.augment = 0.0 if probability == "auto" else probability
        # Halfway to the hinge, and as sure as the target: a fresh discriminator gets time before it is judged.
        self.measured = torch.tensor([1.0, config.augment.target])

    def observe(self, log: Mapping[str, torch.Tensor]) -> None:
        """Takes in what a step says of the discriminator."""
        seen = torch.stack([log["logits/real"] - log["logits/fake"], log["logits/real_sign"]]).float()
        self.measured = self.measured.to(seen.device).lerp(seen, 1.0 - self.MEMORY)

    def decide(self, margin: float, sign: float, images: int) -> None:
        """Sets the pace by what the processes have measured together, `images` after the last decision."""
        if self._config.discriminator_steps == "auto":
            if margin < self.BEHIND:
                self.steps = 2
            elif margin > self.CAUGHT_UP:
                self.steps = 1
        if self._config.augment.probability == "auto":
            change = images / (1000 * self._config.augment.kimg)
            self.augment = min(
                max(self.augment + (change if sign > self._config.augment.target else -change), 0.0), 1.0
            )

    def share(self, processes: Processes) -> None:
        """Replaces what this process has measured by the mean over all, of which `decide` makes the same."""
        self.measured = processes.mean(self.measured.to(processes.device))

    def state(self) -> dict[str, float | int]:
        """What a checkpoint keeps."""
        margin, sign = self.measured.tolist()
        return {"steps": self.steps, "margin": margin, "augment": self.augment, "sign": sign}

    def restore(self, state: Mapping[str, float | int]) -> None:
        """Inverse of state(). What the configuration fixes stays."""
        if self._config.discriminator_steps == "auto":
            self.steps = int(state["steps"])
        if self._config.augment.probability == "auto":
            self.augment = float(state["augment"])
        self.measured = torch.tensor([float(state["margin"]), float(state["sign"])])
