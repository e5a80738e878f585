"""From finished targets to a parser and its measures: what jobs/train_parser.py does once the teacher has labelled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from capricious.annotate.distill.loop import DistillConfig, Report, distill
from capricious.annotate.distill.measure import by_collection
from capricious.annotate.distill.targets import read_targets
from capricious.annotate.unet import save_unet
from capricious.annotate.unet_parser import UNetParser
from capricious.data import storage
from capricious.errors import CapriciousError

PARSER = "parser.safetensors"
MEASURES = "parser.json"


def make_parser(
    config: DistillConfig,
    folders: Sequence[str],
    out: Path,
    *,
    device: str = "cpu",
    loaders: int = 0,
    report: Report | None = None,
) -> None:
    """Trains a parser on the "train" targets of some folders and measures it on the others; resumes in `out`.

    Writes OUT/PARSER and OUT/MEASURES: "trained_on", "distill", and "held_out", the agreement with the teacher by
    collection. All processes of a group call this alike; the first one writes.

    Raises:
        CapriciousError: no targets to learn from, or `out` holds a training with another configuration.
    """
    targets = read_targets(folders, "train")
    if not targets:
        raise CapriciousError(f"no targets to learn from in {', '.join(folders)}; jobs/train_parser.py makes them")
    weights = distill(config, targets, out, device=device, loaders=loaders, report=report)
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return
    save_unet(weights, out / PARSER)
    held_out = by_collection(read_targets(folders, "test"), UNetParser(path=out / PARSER).parse)
    about: dict[str, Any] = {"trained_on": len(targets), "distill": asdict(config), "held_out": held_out}
    storage.write_atomic(str(out / MEASURES), json.dumps(about, indent=2).encode())


def told(measures: dict[str, Any]) -> str:
    """Returns a table of what MEASURES holds, for people."""
    lines = [f"trained on {measures['trained_on']} crops; agreement with the teacher on crops it never saw:"]
    lines += [f"{'crops':>8} {'background':>10} {'skin':>6} {'hair':>6} {'glasses F1':>10}  collection"]
    for name, m in measures["held_out"].items():
        ious = f"{m['background']:10.3f} {m['skin']:6.3f} {m['hair']:6.3f} {m['glasses_f1']:10.3f}"
        lines += [f"{m['crops']:8d} {ious}  {name}"]
    return "\n".join(lines)
