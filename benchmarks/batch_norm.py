"""Which batch-norm statistics should averaged weights be released with?

    python benchmarks/batch_norm.py --run runs/train --data runs/prepared

Takes the EMA of a run's newest checkpoint and reconstructs held-out portraits with it: with the statistics of the fast
network, which its buffers hold, and with statistics measured anew over 1 … 64 batches of training data (as training
does before it releases anything). Error: mean |output − photo|, pixels in 0…255, over portraits of the test split.
"""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch

from capricious.config import from_mapping
from capricious.training import augment, checkpoint
from capricious.training.batches import BatchSource
from capricious.training.checkpoint_store import latest
from capricious.training.config import TrainingConfig
from capricious.training.datasets import JoinedDatasets
from capricious.training.export import with_own_statistics
from capricious.training.networks import new_networks
from capricious.training.score import reconstruction_errors


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--portraits", type=int, default=256)
    options = arguments.parse_args()
    folder = latest(options.run)
    if folder is None:
        raise SystemExit(f"{options.run} has no complete checkpoint")
    state = checkpoint.read_state(folder)
    config = from_mapping(TrainingConfig, state["config"], folder)
    network, _ = new_networks(config)
    network.eval().requires_grad_(False)
    checkpoint.load_module(network, Path(folder) / "ema.safetensors")
    trained, held_out = (
        BatchSource(
            JoinedDatasets([options.data], split),
            resolution=config.resolution,
            batch_size=config.batch_size,
            seed=config.seed,
            memory_budget=0,
        )
        for split in ("train", "test")
    )
    count = min(options.portraits, len(held_out.dataset))

    def batches(number: int):
        for position in range(
            state["images_seen"], state["images_seen"] + number * config.batch_size, config.batch_size
        ):
            yield trained.batch(int(position)), augment.draw(config.seed, int(position), config.batch_size, latent=1)

    print(
        f"{state['images_seen'] / 1000:.1f} kimg seen, EMA of {config.ema_kimg:g} kimg, batches of {config.batch_size}"
    )
    print(f"{count} held-out portraits\n")
    print("| statistics | error | standard error of the difference |\n|---|---|---|")
    first = None
    for number in (0, 1, 4, 16, 64):
        exported = with_own_statistics(network, batches(number)) if number else network
        indices = np.linspace(0, len(held_out.dataset) - 1, count).round().astype(np.int64)
        errors = torch.tensor(
            [e for i in range(0, count, 8) for e in reconstruction_errors(exported, held_out.take(indices[i : i + 8]))]
        )
        first = errors if first is None else first
        spread = (errors - first).std() / count**0.5
        name = f"measured anew, {number} batches" if number else "the fast network's"
        print(f"| {name} | {errors.mean():.2f} | {spread:.2f} |", flush=True)


if __name__ == "__main__":
    main()
