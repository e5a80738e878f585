"""Ten ages of one portrait: the renderer against a textbook SPADE of the same topology and weights.

    python benchmarks/sweep.py [--width 64] [--rounds 3] [--threads 2]

The textbook computes γ and β by two convolutions for each of ten copies of the label map, in torch's default layout.
Random weights: only time and agreement are measured. Both alternate, medians are compared, so that a noisy machine
disturbs both alike; CPU seconds of the process are given too, for a machine that others work on. Read the ratios.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, relu

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.faces.attributes import VECTOR_SIZE
from capricious.faces.label_map import BACKGROUND, EYEBROWS, EYES, HAIR, MOUTH, NOSE, SKIN
from capricious.model.generator import SEED, Generator, GeneratorConfig
from capricious.model.layers import SLOPE, one_hot, shrink_labels
from capricious.model.patches import AUTO_SHARE
from capricious.model.spade import SPADE
from capricious.render.renderer import CHUNKS
from capricious.render.synthesis import Synthesis

AGES = 10


def label_map(size: int) -> Tensor:
    """A face as the annotator draws it: an oval of skin, hair, and boxes."""
    labels = torch.full((1, 128, 128), BACKGROUND, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    labels[0][((x - 64) / 38) ** 2 + ((y - 66) / 52) ** 2 < 1] = HAIR
    labels[0][((x - 64) / 31) ** 2 + ((y - 74) / 44) ** 2 < 1] = SKIN
    for kind, top, bottom, left, right in (
        *((EYEBROWS, 52, 57, 40, 59), (EYEBROWS, 52, 57, 69, 88), (EYES, 60, 67, 42, 57), (EYES, 60, 67, 71, 86)),
        *((NOSE, 64, 86, 56, 72), (MOUTH, 92, 103, 50, 78)),
    ):
        labels[0, top:bottom, left:right] = kind
    return interpolate(labels[None].float(), size=(size, size), mode="nearest")[0].to(torch.uint8)


def textbook(net: Generator, labels: Tensor, latent: Tensor, attributes: Tensor) -> Tensor:
    """The generator as the paper writes it down: everything for every copy."""

    def spade(layer: SPADE, x: Tensor, maps: Tensor) -> Tensor:
        hidden = relu(conv2d(maps, layer.shared.weight, layer.shared.bias, padding=1))
        weights, biases = layer.modulation.weight.chunk(2), layer.modulation.bias.chunk(2)
        gamma, beta = (conv2d(hidden, w, b, padding=1) for w, b in zip(weights, biases, strict=True))
        return layer.norm(x) * (1 + gamma) + beta

    x = net.seed_2(relu(net.seed_1(torch.cat([latent, attributes], 1)))).view(len(latent), -1, SEED, SEED)
    for block in net.blocks:
        if block.resolution != x.shape[-1]:
            x = interpolate(x, scale_factor=2.0, mode="nearest")
        maps = one_hot(shrink_labels(labels, block.resolution), torch.float32)
        d = block.conv_1(leaky_relu(spade(block.spade_1, x, maps), SLOPE))
        d = block.conv_2(leaky_relu(spade(block.spade_2, d, maps), SLOPE))
        x = d + (block.conv_skip(spade(block.spade_skip, x, maps)) if block.learned_skip else x)
    return torch.tanh(net.picture(leaky_relu(x, SLOPE)))


def random_generator(resolution: int, width: int) -> Generator:
    """The paper's topology; weights keep the scale of what passes through them, so that the pictures have contrast."""
    torch.manual_seed(0)
    net = Generator(GeneratorConfig(resolution, width, conditioning="concat"), spectral=False).eval()
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        else:
            parameter.data.normal_(std=0.1)
    return net.requires_grad_(False)


def seconds(do: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - wall, time.process_time() - cpu


@torch.inference_mode()
def compare(resolution: int, width: int, rounds: int) -> list[tuple[str, float, float, float, float]]:
    """Returns name, median wall and CPU seconds, largest error and PSNR (against float64) of each way."""
    plain, fast = random_generator(resolution, width), random_generator(resolution, width)
    labels, latent, attributes = label_map(resolution), torch.randn(1, 128), torch.rand(AGES, VECTOR_SIZE)
    latents = latent.expand(AGES, -1)
    fast.to(memory_format=torch.channels_last)
    fast.distinct_share = AUTO_SHARE
    chunk = CHUNKS["cpu"]

    def sweep(synthesis: Synthesis) -> Tensor:
        prepared = synthesis.prepare(fast.modulations(labels))
        rows = [min(i, AGES - 1) for i in range(-(-AGES // chunk) * chunk)]
        parts = (rows[i : i + chunk] for i in range(0, len(rows), chunk))
        return torch.cat([synthesis([(slice(0, chunk), prepared)], latents[p], attributes[p]) for p in parts])[:AGES]

    direct, winograd = Synthesis(fast, winograd=False), Synthesis(fast)
    ways: dict[str, Callable[[], Tensor]] = {
        "textbook": lambda: textbook(plain, labels.expand(AGES, -1, -1), latents, attributes),
        "renderer without Winograd": lambda: sweep(direct),
        "renderer": lambda: sweep(winograd),
    }
    outcomes = {name: do() for name, do in ways.items()}
    times = [[seconds(do) for do in ways.values()] for _ in range(rounds)]
    exact = _exact(plain, labels, latents, attributes)
    rows = []
    for i, (name, outcome) in enumerate(outcomes.items()):
        wall, cpu = (statistics.median(measured[i][kind] for measured in times) for kind in (0, 1))
        error = outcome - exact
        psnr = float(-10 * torch.log10((error / 2).square().mean()))
        rows.append((name, wall, cpu, float(error.abs().max()), psnr))
    return rows


def _exact(net: Generator, labels: Tensor, latents: Tensor, attributes: Tensor) -> Tensor:
    net = net.double()
    return torch.cat([net(labels, latents[i : i + 1].double(), attributes[i : i + 1].double()) for i in range(AGES)])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--resolution", type=int, default=128)
    arguments.add_argument("--width", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    rows = compare(options.resolution, options.width, options.rounds)
    print(f"{AGES} ages, {options.resolution} px, width {options.width}, {options.threads} threads")
    print(f"{'':26}  {'wall':>8}  {'ratio':>6}  {'CPU':>8}  {'ratio':>6}  {'max error':>9}  {'PSNR':>7}")
    for name, wall, cpu, error, psnr in rows:
        print(
            f"{name:26}  {wall:6.2f} s  {rows[0][1] / wall:6.2f}  {cpu:6.2f} s  {rows[0][2] / cpu:6.2f}"
            f"  {error:9.1e}  {psnr:4.0f} dB"
        )


if __name__ == "__main__":
    main()
