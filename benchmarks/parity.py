"""Do all strategies learn the same? Weights after n steps, of each strategy against one plain process.

    python benchmarks/parity.py --steps 8 --epsilon 10
    python benchmarks/parity.py --steps 3 --epsilon 1e-3
    python benchmarks/parity.py --precision bf16
    python benchmarks/parity.py --device cuda                 # all strategies with one process, on one GPU

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

import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from training_tools import tiny_config, train_apart, write_dataset

ROWS = {
    "plain, again": (1, {}),
    "plain, recorded": (1, {"cuda_graphs": True}),
    "ddp": (2, {"strategy": "ddp"}),
    **{f"ZeRO {stage}": (2, {"strategy": "deepspeed", "zero_stage": stage}) for stage in range(4)},
    "ZeRO 2, optimizer offloaded": (2, {"strategy": "deepspeed", "zero_stage": 2, "offload": "optimizer"}),
    "ZeRO 3, all offloaded": (2, {"strategy": "deepspeed", "zero_stage": 3, "offload": "all"}),
    "ddp, lr × (1 + 1e-7)": (2, {"strategy": "ddp", "lr_generator": 1e-4 * (1 + 1e-7)}),
    "ddp, lr × 1.01": (2, {"strategy": "ddp", "lr_generator": 1.01e-4}),
}


def main() -> None:
    arguments = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=8)
    arguments.add_argument("--epsilon", type=float, default=10.0, help="Adam's ε")
    arguments.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    options = arguments.parse_args()
    alone = options.device == "cuda"
    base = tiny_config(kimg=options.steps * 0.004, log_every=1, ema_kimg=0.0, epsilon=options.epsilon)
    base = replace(base, network=replace(base.network, norm="instance"))
    base = replace(base, device=options.device, precision=options.precision)
    print(
        f"| strategy | processes | losses, from plain's | weights after {options.steps} steps, from plain's "
        "| from ddp's |\n"
        "|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_dataset(folder / "data")
        initial = train_apart(folder / "initial", data, replace(base, kimg=0.004, lr_generator=1e-12))
        plain = train_apart(folder / "plain", data, base)
        moved, ddp = plain.apart(initial), None
        for number, (name, (processes, changes)) in enumerate(ROWS.items()):
            processes = 1 if alone else processes
            if changes.get("cuda_graphs") and not alone:
                continue
            found = train_apart(folder / f"{number}", data, replace(base, **changes), processes)
            worst = max(
                abs(mine[key] - theirs[key]) / max(abs(theirs[key]), 1e-3)
                for mine, theirs in zip(found.metrics, plain.metrics, strict=True)
                for key in theirs
            )
            ddp = found if name == "ddp" else ddp
            beside = "" if ddp is None else f"{found.apart(ddp) / moved:.1e}"
            print(f"| {name} | {processes} | {worst:.1e} | {found.apart(plain) / moved:.1e} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
