"""python -m capricious.training --data PREPARED … --out FOLDER [--training.batch-size 64 …]

Trains in plain processes, without Ray: on a lone GPU machine, or under torchrun. The same command
continues a run that was stopped.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field

from capricious.config import command
from capricious.training.config import TrainingConfig
from capricious.training.loop import train


@dataclass(frozen=True)
class Arguments:
    """What to train on, and where the results go."""

    data: tuple[str, ...]
    """Prepared datasets: folders or URLs."""
    out: str
    """Folder or s3:// address of checkpoints, sample grids and the bundle."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How to train."""


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return command(Arguments, run, argv, description=__doc__ or "")


def run(arguments: Arguments) -> None:
    """Trains."""
    train(arguments.training, data=arguments.data, out=arguments.out)


if __name__ == "__main__":
    sys.exit(main())
