"""python -m capricious.training --data PREPARED … --out FOLDER [--training.batch-size 64 …]

Trains in plain processes, without Ray: on a lone GPU machine, or under torchrun. The same command
continues a run that was stopped.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field

from capricious.config import parse, resolved
from capricious.errors import CapriciousError
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
    try:
        parsed = parse(Arguments, argv, description=__doc__ or "")
        if parsed.dry_run:
            print(resolved(parsed.config), end="")
            return 0
        train(parsed.config.training, data=parsed.config.data, out=parsed.config.out)
    except CapriciousError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
