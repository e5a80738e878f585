"""Ten ages of one portrait: label-map modulations computed once, against once for every age.

    python benchmarks/sweep.py [--width 32] [--rounds 5]

Random weights: only time is measured. A and B alternate, medians are compared, so that a noisy machine disturbs both
alike. Read the ratio, not the milliseconds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.faces.attributes import VECTOR_SIZE
from capricious.model.generator import Generator, GeneratorConfig

AGES = 10


def seconds(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


@torch.inference_mode()
def compare(resolution: int, width: int, rounds: int) -> tuple[float, float, float]:
    """Returns the median seconds of once-per-age and of once-per-portrait, and the largest difference in pixels."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=resolution, width=width), spectral=False).eval()
    for parameter in generator.parameters():
        parameter.normal_(std=0.05)  # as initialised, the pictures are grey and any difference would drown in it
    label_map = (
        torch.randint(0, 7, (1, resolution // 8, resolution // 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    )
    latent = torch.randn(1, 128).expand(AGES, -1)
    attributes = torch.rand(AGES, VECTOR_SIZE)

    def every_age() -> torch.Tensor:
        return generator(label_map.expand(AGES, -1, -1), latent, attributes)

    def once() -> torch.Tensor:
        return generator.synthesize(generator.modulations(label_map), latent, attributes)

    difference = float((every_age() - once()).abs().max())
    times = [(seconds(every_age), seconds(once)) for _ in range(rounds)]
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    return slow, fast, difference


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--width", type=int, default=16)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    print(f"{'resolution':>10}  {'every age':>10}  {'once':>10}  {'ratio':>6}  {'max difference':>14}")
    for resolution in (64, 128):
        slow, fast, difference = compare(resolution, options.width, options.rounds)
        print(f"{resolution:>10}  {slow:>8.2f} s  {fast:>8.2f} s  {slow / fast:>6.2f}  {difference:>14.1e}")


if __name__ == "__main__":
    main()
