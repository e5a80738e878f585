"""python -m capricious.annotate.distill --targets OUT/0-photos OUT/1-paintings --out PARSER [--device cuda …]

Trains the face parser in one plain process, without Ray, on targets that jobs/train_parser.py has labelled: on a lone
GPU machine. The same command continues a training that was stopped.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from capricious.annotate.distill.loop import DistillConfig
from capricious.annotate.distill.parser import MEASURES, make_parser, told
from capricious.config import command


@dataclass(frozen=True)
class Arguments:
    """What to learn from, and where the parser goes."""

    targets: tuple[str, ...]
    """Folders that hold `targets`, one for each collection."""
    out: str
    """Folder of the checkpoint, the parser and its measures."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    loaders: int = 0
    """Processes that wear pictures; 0: a thread, enough for a CPU. A GPU takes a dozen."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """How to train."""


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return command(Arguments, run, argv, description=__doc__ or "")


def run(arguments: Arguments) -> None:
    """Trains and measures."""
    out = Path(arguments.out)
    make_parser(arguments.distill, arguments.targets, out, device=arguments.device, loaders=arguments.loaders)
    print(told(json.loads((out / MEASURES).read_text())))


if __name__ == "__main__":
    sys.exit(main())
