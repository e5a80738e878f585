"""python -m capricious.training.estimator --data PREPARED … --out FILE

Teaches the hardened estimator (model/hardened_estimator.py) the labels of prepared portraits: a judge of age and
gender for training.swap.estimator. About a minute on an H200; two CPU cores do 25 pictures a second.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from capricious.config import command
from capricious.model.hardened_estimator import AGES, HardenedEstimator, expected_age
from capricious.model.mobilenet_v2 import load_feature_network
from capricious.training import augment, checkpoint, estimator_view, painterly
from capricious.training.augment import AGE, AGE_KNOWN, GENDER, GENDER_KNOWN
from capricious.training.batches import Batch, BatchSource
from capricious.training.datasets import JoinedDatasets

log = logging.getLogger(__name__)

LABEL_DEVIATION = 2.5
"""Years: a label is taught as a normal distribution over the age classes, as neighbouring ages look alike."""
PAINTERLY, GREY, ERASED = 0.3, 0.25, 0.3
"""Shares of the pictures that are made painterly, grey, or lose a square."""


@dataclass(frozen=True)
class Arguments:
    """What to learn from, and how."""

    data: tuple[str, ...]
    """Prepared datasets; their train splits are learnt, their test splits judge the result."""
    out: str
    """Safetensors file to write."""
    kimg: float = 200.0
    """Thousands of pictures to train on."""
    batch_size: int = 128
    """Pictures a step."""
    learning_rate: float = 1e-3
    """Highest rate of AdamW, after a warm-up of a tenth and before a cosine down to nothing."""
    hostility: float = 3.0
    """Largest change that the hostile noise makes to a pixel, levels of 0…255."""
    resolution: int = 128
    """Side of the pictures in pixels."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""
    seed: int = 0


def train_estimator(arguments: Arguments) -> HardenedEstimator:
    """Returns the trained network, in eval mode; logs its held-out error.

    Raises:
        CapriciousError: the data cannot be used, or ImageNet's weights cannot be had.
    """
    device, steps = torch.device(arguments.device), round(1000 * arguments.kimg / arguments.batch_size)
    source = _source(arguments, "train", balance=True)
    torch.manual_seed(arguments.seed)
    network = HardenedEstimator()
    network.features.load_state_dict(load_feature_network().state_dict())
    network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), arguments.learning_rate, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.learning_rate, steps, pct_start=0.1)
    random = torch.Generator(device).manual_seed(arguments.seed)
    started = time.monotonic()
    for step in range(steps):
        batch = source.batch(step * arguments.batch_size)
        image = _changed(batch, random)
        with torch.autocast(device.type, torch.bfloat16):
            hostile = _hostile(network, image, batch.attributes, arguments.hostility / 127.5, random)
            loss = _loss(network, hostile, batch.attributes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49 or step + 1 == steps:
            speed = (step + 1) * arguments.batch_size / (time.monotonic() - started)
            log.info("step %d of %d: loss %.3f, %.0f pictures/s", step + 1, steps, loss.item(), speed)
    return network.eval()


def held_out_errors(network: nn.Module, source: BatchSource) -> dict[str, float]:
    """Returns the estimator's mean error ("mae", years), bias, slope against the label, and share of right genders.

    Args:
        source: portraits that it has not learnt; those of unknown age or gender are left out ("portraits" counts).
    """
    count, found = len(source.dataset), []
    for start in range(0, count, source.batch_size):
        batch = source.take(np.arange(start, min(start + source.batch_size, count)))
        with torch.no_grad():
            age, male = network(batch.image * batch.inside.unsqueeze(1))
        known = (batch.attributes[:, AGE_KNOWN] * batch.attributes[:, GENDER_KNOWN]) > 0.5
        truth = (100.0 * batch.attributes[:, AGE], batch.attributes[:, GENDER])
        found.append(torch.stack([age, male, *truth])[:, known])
    age, male, label, gender = torch.cat(found, 1).double().cpu().numpy()
    return {
        "portraits": len(label),
        "mae": float(np.abs(age - label).mean()),
        "bias": float((age - label).mean()),
        "slope": float(np.polyfit(label, age, 1)[0]),
        "gender": float(((male > 0.5) == (gender > 0.5)).mean()),
    }


def _source(arguments: Arguments, split: str, balance: bool) -> BatchSource:
    return BatchSource(
        JoinedDatasets(arguments.data, split),
        resolution=arguments.resolution,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        device=arguments.device,
        balance="age" if balance else "none",
        workers=8,
    )


def _loss(network: HardenedEstimator, image: Tensor, attributes: Tensor) -> Tensor:
    """Cross entropy and L1 of the known ages, binary cross entropy of the known genders."""
    logits, male = network.logits(image)
    label = (100.0 * attributes[:, AGE]).clamp(0.0, AGES - 1.0)
    classes = torch.arange(AGES, device=label.device)
    wanted = (-0.5 * ((classes - label[:, None]) / LABEL_DEVIATION).square()).softmax(1)
    of_age = cross_entropy(logits, wanted, reduction="none") + 0.1 * (expected_age(logits) - label).abs()
    of_gender = binary_cross_entropy_with_logits(male, attributes[:, GENDER], reduction="none")
    return (attributes[:, AGE_KNOWN] * of_age + attributes[:, GENDER_KNOWN] * of_gender).mean()


def _hostile(
    network: HardenedEstimator, image: Tensor, attributes: Tensor, most: float, random: torch.Generator
) -> Tensor:
    """Returns the pictures with the noise that misleads the network most, as far as one step of its gradient tells.

    From a random start ("Fast is better than free", Wong et al. 2020, arXiv:2001.03994, algorithm 3).
    """
    if not most:
        return image
    noise = most * (2.0 * torch.rand(image.shape, generator=random, device=image.device) - 1.0)
    noise.requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(network, image + noise, attributes), noise)
    return image + (noise.detach() + 1.25 * most * gradient.sign()).clamp(-most, most)


def _changed(batch: Batch, random: torch.Generator) -> Tensor:
    """Returns the portraits mirrored, moved, painted, in other light and colours: nothing that tells an age."""
    image, count, device = batch.image * batch.inside.unsqueeze(1), len(batch.image), batch.image.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=random, device=device)

    image = augment.mirror(image, uniform() < 0.5)
    image = painterly.painterly(image, uniform(painterly.NUMBERS), PAINTERLY)
    for _ in range(2):  # further than the trainer moves its pictures
        image = estimator_view.estimator_view(image, uniform(estimator_view.NUMBERS))
    # Each channel its own brightness and gain: casts, varnish, tinted skin.
    cast = 1.0 + 0.3 * (2.0 * uniform(3, 1, 1) - 1.0)
    image = image * cast + 0.25 * (2.0 * uniform(3, 1, 1) - 1.0)
    grey = image.mean(1, keepdim=True).expand_as(image)
    image = torch.where(uniform(1, 1, 1) < GREY, grey, image.lerp(grey, 0.6 * uniform(1, 1, 1)))
    return _erased(image, uniform(2), uniform(1, 1, 1) < ERASED).clamp(-1.0, 1.0)


def _erased(image: Tensor, centre: Tensor, gate: Tensor) -> Tensor:
    """Blanks a square of a quarter of the side around a random centre where `gate` is set."""
    place = torch.linspace(0.0, 1.0, image.shape[-1], device=image.device)
    near = (place - centre[:, :, None]).abs() < 0.125
    return image * ~(near[:, 0, :, None] & near[:, 1, None, :]).unsqueeze(1).logical_and(gate)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return command(Arguments, run, argv, description=__doc__ or "")


def run(arguments: Arguments) -> None:
    """Trains, measures and writes the estimator."""
    network = train_estimator(arguments)
    errors = held_out_errors(network, _source(arguments, "test", balance=False))
    log.info("held out: %s", ", ".join(f"{name} {value:.3f}" for name, value in errors.items()))
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_module(network, Path(arguments.out), torch.bfloat16)


if __name__ == "__main__":
    sys.exit(main())
