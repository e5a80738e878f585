"""A training step of ours against a textbook SPADE step of the same topology, interleaved.

    python benchmarks/train_step.py [--width 16 32 64] [--batch 4] [--rounds 3] [--device cpu] [--data PREPARED]

The textbook step is written here as papers and tutorials write it: γ and β convolved at every pixel, label maps resized
as one-hot floats for every layer, the generator run once for each player, spectral norm at every call, float32, the
default memory format, the discriminator's weights gathering gradients that nobody needs in the generator's step. Both
have the same layers, losses and optimizer, no swap pass, and random weights: only time is measured. Medians of
interleaved rounds, so that a noisy machine disturbs all alike; on one that does other work too, the seconds of CPU
(with --threads 1, where nothing spins) say more than those on the clock. Read the ratios.

On CUDA it adds TFLOP/s and the share of the peak (--peak-tflops) of the last of --kinds at --batch.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu, relu
from torch.nn.functional import one_hot as torch_one_hot
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.data.prepared import PreparedDataset
from capricious.faces.attributes import VECTOR_SIZE
from capricious.faces.label_map import CLASSES
from capricious.model import losses
from capricious.model.losses import LossWeights
from capricious.model.perceptual import PerceptualLoss
from capricious.training import augment
from capricious.training.batches import Batch, BatchSource
from capricious.training.config import NetworkConfig, SwapConfig, TrainingConfig
from capricious.training.ema import Ema
from capricious.training.judges import new_judges
from capricious.training.networks import new_networks
from capricious.training.recorded_step import WARM_UP, new_step
from capricious.training.strategy import create

K, LATENT, HIDDEN, RESOLUTION = len(CLASSES), 128, 128, 128


# --- the textbook


class TextbookSpade(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Conv2d(K, HIDDEN, 3, padding=1)
        self.gamma = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        self.beta = nn.Conv2d(HIDDEN, channels, 3, padding=1)

    def forward(self, x: Tensor, segmentation: Tensor) -> Tensor:
        normal = self.norm(x)
        hidden = relu(self.shared(interpolate(segmentation, size=x.shape[2:], mode="nearest")))
        return normal * (1 + self.gamma(hidden)) + self.beta(hidden)


class TextbookBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        middle = min(inputs, outputs)
        self.spade_1, self.spade_2 = TextbookSpade(inputs), TextbookSpade(middle)
        self.conv_1 = spectral_norm(nn.Conv2d(inputs, middle, 3, padding=1))
        self.conv_2 = spectral_norm(nn.Conv2d(middle, outputs, 3, padding=1))
        self.spade_skip = TextbookSpade(inputs) if inputs != outputs else None
        self.conv_skip = spectral_norm(nn.Conv2d(inputs, outputs, 1, bias=False)) if inputs != outputs else None

    def forward(self, x: Tensor, segmentation: Tensor) -> Tensor:
        skip = x
        if self.spade_skip is not None and self.conv_skip is not None:
            skip = self.conv_skip(self.spade_skip(x, segmentation))
        d = self.conv_1(leaky_relu(self.spade_1(x, segmentation), 0.2))
        return skip + self.conv_2(leaky_relu(self.spade_2(d, segmentation), 0.2))


class TextbookGenerator(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        top = 16 * width
        self.seed = nn.Sequential(nn.Linear(LATENT + VECTOR_SIZE, 128), nn.ReLU(), nn.Linear(128, top * 8 * 8))
        channels = [(top, top), (top, top), (top, top), (top, 4 * width), (4 * width, 2 * width), (2 * width, width)]
        self.blocks = nn.ModuleList(TextbookBlock(i, o) for i, o in channels)
        self.picture = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, segmentation: Tensor, latent: Tensor, attributes: Tensor) -> Tensor:
        x = self.seed(torch.cat([latent, attributes], 1))
        x = x.view(len(x), -1, 8, 8)
        for i, block in enumerate(self.blocks):
            if i not in (0, 2):
                x = interpolate(x, scale_factor=2, mode="nearest")
            x = block(x, segmentation)
        return torch.tanh(self.picture(leaky_relu(x, 0.2)))


class TextbookEncoder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for factor in (1, 2, 4, 8, 8):
            conv = spectral_norm(nn.Conv2d(inputs, factor * width, 3, stride=2, padding=1))
            layers += [conv, nn.InstanceNorm2d(factor * width), nn.LeakyReLU(0.2)]
            inputs = factor * width
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.mean, self.log_variance = (nn.Linear(inputs * 16, LATENT) for _ in range(2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(image)
        return self.mean(features), self.log_variance(features)


class TextbookDiscriminator(nn.Module):
    def __init__(self, width: int):
        super().__init__()

        def scale() -> nn.ModuleList:
            layers = nn.ModuleList([nn.Sequential(nn.Conv2d(K + 3, width, 4, 2, 2), nn.LeakyReLU(0.2))])
            for inputs, outputs, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
                conv = spectral_norm(nn.Conv2d(inputs * width, outputs * width, 4, stride, 2))
                layers.append(nn.Sequential(conv, nn.InstanceNorm2d(outputs * width), nn.LeakyReLU(0.2)))
            layers.append(nn.Conv2d(8 * width, 1, 4, padding=2))
            return layers

        self.scales = nn.ModuleList([scale(), scale()])

    def forward(self, segmentation: Tensor, image: Tensor) -> list[list[Tensor]]:
        x, judgement = torch.cat([segmentation, image], 1), []
        for i, layers in enumerate(self.scales):
            if i:
                x = avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            features, y = [], x
            for layer in layers:
                y = layer(y)
                features.append(y)
            judgement.append(features)
        return judgement


class TextbookStep:
    def __init__(self, width: int, perceptual: PerceptualLoss, device: torch.device):
        self.generator, self.encoder = TextbookGenerator(width).to(device), TextbookEncoder(width).to(device)
        self.discriminator, self.perceptual = TextbookDiscriminator(width).to(device), perceptual
        mine = [*self.generator.parameters(), *self.encoder.parameters()]
        for parameter in [*mine, *self.discriminator.parameters()]:
            if parameter.ndim > 1:
                nn.init.xavier_normal_(parameter, 0.02)
        self.optimizer_g = torch.optim.Adam(mine, 1e-4, (0.0, 0.9))
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), 4e-4, (0.0, 0.9))
        self.weights = LossWeights()

    def render(self, batch: Batch, segmentation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(batch.image)
        latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.generator(segmentation, latent, batch.attributes), mean, log_variance

    def judge(self, batch: Batch, segmentation: Tensor, fake: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        judgement = self.discriminator(torch.cat([segmentation] * 2), torch.cat([fake, batch.image]))
        count = len(fake)
        of_fake = [[layer[:count] for layer in scale] for scale in judgement]
        return of_fake, [[layer[count:] for layer in scale] for scale in judgement]

    def __call__(self, batch: Batch) -> None:
        segmentation = torch_one_hot(batch.label_map.long(), K).permute(0, 3, 1, 2).float()
        self.optimizer_g.zero_grad()
        fake, mean, log_variance = self.render(batch, segmentation)
        of_fake, of_real = self.judge(batch, segmentation, fake)
        w = self.weights
        loss = w.gan * losses.hinge_generator(of_fake)
        loss = loss + w.feature_matching * losses.feature_matching(of_real, of_fake)
        loss = (
            loss
            + w.perceptual * self.perceptual.loss(fake, batch.image)
            + w.kl * losses.kl_divergence(mean, log_variance)
        )
        loss.backward()
        self.optimizer_g.step()

        self.optimizer_d.zero_grad()
        with torch.no_grad():
            fake, _, _ = self.render(batch, segmentation)
        of_fake, of_real = self.judge(batch, segmentation, fake)
        losses.hinge_discriminator(of_real, of_fake).backward()
        self.optimizer_d.step()


# --- ours


def our_config(width: int, batch: int, device: str, **changes: object) -> TrainingConfig:
    network = NetworkConfig(width=width, encoder_width=width, discriminator_width=width, conditioning="concat")
    config = TrainingConfig(
        resolution=RESOLUTION,
        network=network,
        swap=SwapConfig(probability=0.0),
        batch_size=batch,
        device=device,  # type: ignore[arg-type]
        attribute_dropout=0.0,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


class OurStep:
    """The step as the loop runs it, with its moving average."""

    def __init__(self, config: TrainingConfig):
        self.config, spread = config, create(config)
        autoencoder, discriminator = new_networks(config)
        self.ema = Ema(autoencoder, 10_000)
        self.autoencoder = spread.player(autoencoder, config.lr_generator)
        self.ema.network.to(spread.processes.device)
        judges = new_judges(config, spread.processes.device)
        self.step = new_step(config, self.autoencoder, spread.player(discriminator, config.lr_discriminator), judges)
        self.images_seen = 0

    def __call__(self, batch: Batch) -> None:
        config = self.config
        swap = config.swap.probability
        draws = augment.draw(config.seed, self.images_seen, config.batch_size, latent=LATENT, dropout=0.0, swap=swap)
        self.step(batch, draws.to(batch.image.device))
        self.images_seen += config.batch_size
        self.ema.update(self.autoencoder.module, self.images_seen, config.batch_size)


# --- measuring


def portraits(data: str | None, batch: int, device: str) -> Batch:
    """A batch of a prepared dataset; or noise on label maps of made-up heads, where there is none."""
    if data is not None:
        dataset = PreparedDataset(data, "train")
        return BatchSource(dataset, resolution=RESOLUTION, batch_size=batch, seed=0, device=device).batch(0)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, RESOLUTION, RESOLUTION, generator=generator) * 2 - 1
    maps = torch.stack([torch.from_numpy(_head(generator)) for _ in range(batch)])
    attributes = torch.rand(batch, VECTOR_SIZE, generator=generator)
    inside = torch.ones(maps.shape, dtype=torch.bool)
    return Batch(image.to(device), maps.to(device), inside.to(device), attributes.to(device))


def _head(generator: torch.Generator) -> np.ndarray:
    x0, y0, wave = (torch.rand(3, generator=generator) - 0.5).tolist()
    y, x = np.mgrid[:RESOLUTION, :RESOLUTION] / RESOLUTION
    x, y = x - 0.05 * x0, y - 0.05 * y0
    labels = np.zeros((RESOLUTION, RESOLUTION), np.uint8)
    labels[((x - 0.5) / (0.38 + 0.03 * np.sin(30 * x + 9 * wave))) ** 2 + ((y - 0.5) / 0.45) ** 2 < 1] = 2
    labels[((x - 0.5) / 0.27) ** 2 + ((y - 0.57) / 0.36) ** 2 < 1] = 1
    for left, right, top, bottom, label in (
        (0.30, 0.45, 0.38, 0.43, 4),
        (0.55, 0.70, 0.38, 0.43, 4),
        (0.30, 0.45, 0.44, 0.50, 3),
        (0.55, 0.70, 0.44, 0.50, 3),
        (0.42, 0.58, 0.45, 0.65, 5),
        (0.36, 0.64, 0.70, 0.80, 6),
    ):
        labels[(x > left) & (x < right) & (y > top) & (y < bottom)] = label
    return labels


class Seconds(NamedTuple):
    """Of one step: on the clock, and of all processor cores together."""

    wall: float
    cpu: float


def seconds(step: Callable[[Batch], None], batch: Batch) -> Seconds:
    _wait(batch)
    wall, cpu = time.perf_counter(), time.process_time()
    step(batch)
    _wait(batch)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def warm(step: Callable[[Batch], None], batch: Batch) -> None:
    """Runs a step for nothing: kernels are chosen, optimizers make their state, CUDA graphs are recorded."""
    for _ in range(WARM_UP + 2 if batch.image.is_cuda else 1):
        step(batch)


def _wait(batch: Batch) -> None:
    if batch.image.is_cuda:
        torch.cuda.synchronize()


def compare(width: int, batch: Batch, rounds: int, device: str, kinds: list[str]) -> dict[str, Seconds]:
    """Returns the median seconds of a step by kind."""
    count = len(batch.image)
    perceptual = PerceptualLoss().to(device)
    variants: dict[str, Callable[[Batch], None]] = {}
    for kind in kinds:
        torch.manual_seed(0)
        variants[kind] = (
            TextbookStep(width, perceptual, torch.device(device))
            if kind == "textbook"
            else OurStep(our_config(width, count, device, **KINDS[kind]))
        )
    for step in variants.values():
        warm(step, batch)
    times: dict[str, list[Seconds]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, step in variants.items():
            times[kind].append(seconds(step, batch))
            wall, cpu = times[kind][-1]
            print(f"{kind}: {wall:.2f} s, {cpu:.2f} s of CPU", file=sys.stderr, flush=True)
    return {kind: Seconds(*map(statistics.median, zip(*values, strict=True))) for kind, values in times.items()}


KINDS: dict[str, dict[str, object]] = {
    "textbook": {},
    "ours, plain modulation": {"distinct_share": 0.0},
    "ours": {},
    "ours, channels last": {"channels_last": True},
    "ours, bf16": {"channels_last": True, "precision": "bf16"},
    "ours, with swap": {"channels_last": True, "swap": SwapConfig(probability=1.0)},
    "ours, bf16, compiled": {"channels_last": True, "precision": "bf16", "compile": True},
    "ours, bf16, recorded": {"channels_last": True, "precision": "bf16", "cuda_graphs": True},
    "ours, bf16, compiled, recorded": {
        "channels_last": True,
        "precision": "bf16",
        "compile": True,
        "cuda_graphs": True,
    },
}


def flops(step: Callable[[Batch], None], batch: Batch) -> float:
    with FlopCounterMode(display=False) as counter:
        step(batch)
    return float(counter.get_total_flops())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--width", type=int, nargs="+", default=[16, 32, 64])
    arguments.add_argument("--batch", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments.add_argument("--threads", type=int, help="of the CPU; default: PyTorch's")
    arguments.add_argument("--data", help="prepared dataset, for real label maps")
    arguments.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS)[:6])
    arguments.add_argument("--peak-tflops", type=float, default=989.0, help="bf16 peak of the GPU; H100 and H200: 989")
    arguments.add_argument("--profile", choices=list(KINDS), help="where the time of one step goes, instead")
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    batch = portraits(options.data, options.batch, options.device)
    if options.profile:
        profile(options.profile, options.width[0], batch, options.device)
        return
    what = f"{RESOLUTION} px, batch {options.batch}, medians of {options.rounds}"
    print(f"{what}, {options.device}, torch {torch.__version__}")
    for width in options.width:
        medians = compare(width, batch, options.rounds, options.device, options.kinds)
        first = medians[options.kinds[0]]
        print(f"\n| width {width} | s/step | images/s | × | CPU s | × |\n|---|---:|---:|---:|---:|---:|")
        for kind, (wall, cpu) in medians.items():
            speed = f"{wall:.3f} | {options.batch / wall:.2f} | {first.wall / wall:.2f}"
            print(f"| {kind} | {speed} | {cpu:.3f} | {first.cpu / cpu:.2f} |", flush=True)
        if options.device == "cuda":
            # Counted as written, without patches: what the same mathematics costs in full.
            changes = {**KINDS[options.kinds[-1]], "distinct_share": 0.0, "compile": False, "cuda_graphs": False}
            work = flops(OurStep(our_config(width, options.batch, "cuda", **changes)), batch)
            tflops = work / medians[options.kinds[-1]].wall / 1e12
            share = f"{tflops / options.peak_tflops:.1%} of {options.peak_tflops:g}"
            print(
                f"{work / options.batch / 1e9:.0f} GFLOP an image; {options.kinds[-1]}: {tflops:.0f} TFLOP/s, {share}"
            )


def profile(kind: str, width: int, batch: Batch, device: str) -> None:
    """Prints the operators that take the time of one step."""
    step: Callable[[Batch], None]
    if kind == "textbook":
        step = TextbookStep(width, PerceptualLoss().to(device), torch.device(device))
    else:
        step = OurStep(our_config(width, len(batch.image), device, **KINDS[kind]))
    warm(step, batch)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as found:
        step(batch)
    order = f"self_{device}_time_total"
    print(found.key_averages().table(sort_by=order, row_limit=25))
    print(found.key_averages(group_by_input_shape=True).table(sort_by=order, row_limit=25))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
