"""Do all strategies learn the same? Weights after n steps, of each strategy against one plain process.

    python benchmarks/parity.py --steps 8 --epsilon 10
    python benchmarks/parity.py --steps 3 --epsilon 1e-3

Generator and encoder as released (the EMA follows exactly here), trained from the same seed on the same made-up
portraits, with instance norm (a CPU has no synchronised batch norm). Weights are compared by the relative distance
‖w − v‖ / ‖v − w_0‖: how far they are apart, in units of how far training has moved them; losses by the greatest
relative difference in all steps.

Two processes sum in another order than one, and this game enlarges rounding: Adam divides every gradient by its own
size, also where it is zero but for rounding (a bias before a norm), and instance norm in the discriminator does the
like with the nearly grey pictures of a fresh generator. With Adam's ε of 1e-8 equally right runs are far apart after a
few steps. With a large ε a step is proportional to its gradient, and rounding stays as small as it is. The last rows
say what the comparison can see: a learning rate that differs in the eighth digit, and one that differs by a hundredth.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from training_tools import tiny_config, write_dataset

from capricious.config import to_mapping

ROWS = {
    "plain": (1, {}),
    "ddp": (2, {"strategy": "ddp"}),
    **{f"ZeRO {stage}": (2, {"strategy": "deepspeed", "zero_stage": stage}) for stage in range(4)},
    "ZeRO 2, optimizer offloaded": (2, {"strategy": "deepspeed", "zero_stage": 2, "offload": "optimizer"}),
    "ZeRO 3, all offloaded": (2, {"strategy": "deepspeed", "zero_stage": 3, "offload": "all"}),
    "ddp, lr × (1 + 1e-7)": (2, {"strategy": "ddp", "lr_generator": 1e-4 * (1 + 1e-7)}),
    "ddp, lr × 1.01": (2, {"strategy": "ddp", "lr_generator": 1.01e-4}),
}
NOT_LOSSES = ("kimg", "images_per_second", "minutes", "seconds_left", "data_wait", "discriminator_steps")


def run(folder: Path, data: str, processes: int, config) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Trains in processes of their own; returns the released weights and the losses of each step."""
    folder.mkdir()
    settings = {"data": [data], "out": str(folder / "out"), "training": to_mapping(config)}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "capricious.training", "--config", str(folder / "config.yaml")]
    children = []
    for rank in range(processes):
        mine = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{processes}"} if processes > 1 else {}
        with open(folder / f"log-{rank}", "w") as log:
            children.append(subprocess.Popen(command, env=os.environ | shared | mine, stdout=log, stderr=log))
    for rank, child in enumerate(children):
        if child.wait():
            raise SystemExit((folder / f"log-{rank}").read_text())
    bundle = folder / "out" / "bundle"
    weights = {
        f"{part}.{name}": tensor
        for part in ("generator", "encoder")
        for name, tensor in load_file(bundle / f"{part}.safetensors").items()
    }
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    return weights, [json.loads(line) for line in lines]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(sum((a[name].double() - b[name].double()).square().sum() for name in b) ** 0.5)


def main() -> None:
    arguments = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=8)
    arguments.add_argument("--epsilon", type=float, default=10.0, help="Adam's ε")
    options = arguments.parse_args()
    base = tiny_config(kimg=options.steps * 0.004, log_every=1, ema_kimg=0.0, epsilon=options.epsilon)
    base = replace(base, network=replace(base.network, norm="instance"))
    print(
        f"| strategy | processes | losses, from plain's | weights after {options.steps} steps, from plain's |\n"
        "|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_dataset(folder / "data")
        initial, _ = run(folder / "initial", data, 1, replace(base, kimg=0.004, lr_generator=1e-12))
        reference, plain_losses = run(folder / "plain", data, 1, base)
        moved = distance(initial, reference)
        for number, (name, (processes, changes)) in enumerate(ROWS.items()):
            weights, losses = run(folder / f"{number}", data, processes, replace(base, **changes))
            worst = max(
                abs(mine[key] - theirs[key]) / max(abs(theirs[key]), 1e-3)
                for mine, theirs in zip(losses, plain_losses, strict=True)
                for key in theirs
                if key not in NOT_LOSSES
            )
            apart = distance(weights, reference) / moved
            print(f"| {name} | {processes} | {worst:.1e} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
