"""Training the student: one plain process, or one of several under torch.distributed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from capricious import weights
from capricious.annotate.distill.batches import Batch, BatchSource
from capricious.annotate.distill.targets import SIZE, Target
from capricious.annotate.unet import ParsingUNet, load_unet
from capricious.errors import ConfigError

CHECKPOINT = "checkpoint.pt"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillConfig:
    """How the student is trained."""

    kimg: float = 36.0
    """Length of the training in thousands of images seen."""
    small_share: float = 0.62
    """Share of the images that are shown at `small_size` first: 2.6 times as many of them in the same time."""
    small_size: int = 160
    """Side in pixels of the first images; the others have the full 256."""
    batch_size: int = 16
    """Images of one step, all workers together."""
    learning_rate: float = 2e-3
    """Highest rate of AdamW for the decoder, after a warm-up and before a cosine down to nothing."""
    encoder_rate: float = 0.4
    """The encoder's share of it: it has been trained on ImageNet already."""
    warmup_kimg: float = 1.0
    sharpness: float = 2.0
    """Power to which the teacher's probabilities are taken: it is unsure of much that it gets right."""
    ema_kimg: float = 2.0
    """Half-life of the averaged weights that are kept."""
    worn_share: float = 0.5
    """Share of the copies that are worn as paintings are; the others are only mirrored and moved."""
    start_from: str | None = None
    """Parser to begin from, as this job or the package has it (.safetensors); None: ImageNet's encoder."""
    start_share: float = 0.0
    """Share of the parser begun from in the weights of the result: half of each is often better than either
    (Wortsman et al. 2022, "Model soups")."""
    checkpoint_kimg: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ConfigError(f"batch_size must be at least 2 for batch normalisation, found: {self.batch_size}")
        if self.small_size % 32 or not 32 <= self.small_size <= SIZE:
            raise ConfigError(f"small_size must be a multiple of 32 in 32…{SIZE}, found: {self.small_size}")
        if not 0.0 <= self.small_share <= 1.0:
            raise ConfigError(f"small_share must be in 0…1, found: {self.small_share}")
        if not 0.0 <= self.worn_share <= 1.0:
            raise ConfigError(f"worn_share must be in 0…1, found: {self.worn_share}")
        if not 0.0 <= self.start_share < 1.0 or (self.start_share and self.start_from is None):
            raise ConfigError(
                f"start_share must be at least 0 and below 1, and 0 without start_from, found: {self.start_share}"
            )
        if self.kimg <= 0 or self.checkpoint_kimg <= 0:
            raise ConfigError("kimg and checkpoint_kimg must be above 0")

    @property
    def steps(self) -> int:
        return max(1, round(self.kimg * 1000 / self.batch_size))

    def size_at(self, step: int) -> int:
        """Returns the side in pixels of the images of a step."""
        return self.small_size if step < self.small_share * self.steps else SIZE

    def rate_at(self, step: int) -> float:
        """Returns the factor of the learning rate at a step: linear warm-up, then half a cosine."""
        warmup = self.warmup_kimg * 1000 / self.batch_size
        falling = 0.5 * (1.0 + torch.cos(torch.tensor(torch.pi * step / self.steps)).item())
        return min(1.0, (step + 1) / max(warmup, 1.0)) * falling


def distillation_loss(logits: Tensor, soft_labels: Tensor, sharpness: float) -> Tensor:
    """Cross-entropy and soft Dice against the teacher (Milletari et al. 2016, equation in section 3).

    Args:
        logits: B×4×H×W, see unet.LOGITS.
        soft_labels: B×3×H×W in 0…1: probability of skin, hair and glasses.
        sharpness: power to which the three classes' probabilities are taken before they are normalised again.
    """
    skin, hair, glasses = soft_labels.unbind(1)
    teacher = torch.stack([(1.0 - skin - hair).clamp_min(0.0), skin, hair], 1).pow(sharpness)
    teacher = teacher / teacher.sum(1, keepdim=True)
    entropy = -(teacher * logits[:, :3].log_softmax(1)).sum(1).mean()
    student = logits[:, :3].softmax(1)
    glasses_logit = logits[:, 3]
    # Glasses are a hundredth of all pixels: cross-entropy alone would be content without them, Dice is not.
    glasses_entropy = F.binary_cross_entropy_with_logits(glasses_logit, glasses)
    return (
        entropy
        + 0.5 * (1.0 - dice(student, teacher).mean())
        + 2.0 * glasses_entropy
        + 0.5 * (1.0 - dice(glasses_logit.sigmoid()[:, None], glasses[:, None]).mean())
    )


def dice(a: Tensor, b: Tensor) -> Tensor:
    """Returns the overlap 2·Σab / Σ(a² + b²) of each class over a whole batch, C values in 0…1; 1 where both are 0."""
    axes = (0, 2, 3)
    return (2.0 * (a * b).sum(axes) + 1.0) / ((a * a + b * b).sum(axes) + 1.0)


class Student:
    """The network in training with its optimiser and its averaged weights."""

    def __init__(self, config: DistillConfig, device: torch.device):
        self.config, self.device = config, device
        if config.start_from:
            net = load_unet(Path(config.start_from)).requires_grad_(True)
        else:
            net = ParsingUNet()
            load_imagenet(net)
        self.net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.begun_from = {name: value.clone() for name, value in self.average.items()}
        groups = [(self.net.encoder, config.encoder_rate), (self.net.bottom, 1.0), (self.net.ups, 1.0)]
        groups.append((self.net.head, 1.0))
        self.optimizer = torch.optim.AdamW(
            [{"params": list(part.parameters()), "share": share} for part, share in groups], weight_decay=1e-4
        )

    def step(self, model: nn.Module, batch: Batch, number: int) -> Tensor:
        """Makes one step; returns the loss, detached. In bfloat16 where the network is on CUDA."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * group["share"] * self.config.rate_at(number)
        images, soft_labels = batch.on(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        loss = distillation_loss(logits.float(), soft_labels, self.config.sharpness)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()
        self._average(number)
        return loss.detach()

    def _average(self, number: int) -> None:
        half_life = max(1.0, min(self.config.ema_kimg * 1000 / self.config.batch_size, (number + 1) / 4))
        keep = 0.5 ** (1.0 / half_life)
        state = self.net.state_dict()
        floating = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in floating], [state[n] for n in floating], 1.0 - keep)
        for name in state.keys() - set(floating):
            self.average[name].copy_(state[name])

    def result(self) -> dict[str, Tensor]:
        """Returns the averaged weights, mixed with those begun from as the configuration says."""
        return {
            name: value.lerp(self.begun_from[name], self.config.start_share) if value.is_floating_point() else value
            for name, value in self.average.items()
        }

    def state(self, done: int) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "done": done,
            "config": asdict(self.config),
            "net": self.net.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> int:
        """Inverse of state(); returns the number of steps done.

        Raises:
            ConfigError: the state belongs to another configuration; names the field that differs.
        """
        for name, value in asdict(self.config).items():
            if state["config"].get(name) != value:
                found = state["config"].get(name)
                raise ConfigError(f"the training was started with {name} {found}, now {value}; choose another --out")
        self.net.load_state_dict(state["net"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["done"])


def load_imagenet(net: ParsingUNet) -> None:
    """Loads torchvision's ImageNet weights into the encoder."""
    state = torch.load(weights.fetch("mobilenetv2"), map_location="cpu", weights_only=True)
    # features.18 and the classifier are the end of the ImageNet network, which the encoder leaves out.
    ours = {n: v for n, v in state.items() if not n.startswith(("features.18.", "classifier."))}
    missing, _ = net.encoder.load_state_dict(ours, strict=False)
    if any(not name.endswith("num_batches_tracked") for name in missing):
        raise ConfigError(f"the weight mobilenetv2 lacks {', '.join(missing)}")


Report = Callable[[dict[str, float], Path], None]


def distill(
    config: DistillConfig,
    targets: list[Target],
    out: Path,
    *,
    device: str = "cpu",
    loaders: int = 0,
    report: Report | None = None,
) -> dict[str, Tensor]:
    """Trains the student and returns its weights (Student.result); resumes from `out` where it was stopped.

    Args:
        targets: what to learn from; the same list in every worker.
        out: folder of the checkpoint, shared by all workers.
        loaders: processes of each worker that make its batches; see BatchSource.stream. They make the same ones.
        report: called by every worker after each checkpoint with metrics and the checkpoint's file.

    Raises:
        ConfigError: `out` holds a training with another configuration.
    """
    shared = torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if shared else (0, 1)
    torch.manual_seed(config.seed)
    student = Student(config, torch.device(device))
    path = out / CHECKPOINT
    done = student.restore(torch.load(path, map_location=device, weights_only=True)) if path.exists() else 0
    model: nn.Module = student.net.train()
    if world > 1:
        model = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(model) if device != "cpu" else model)
    source = BatchSource(targets, max(2, config.batch_size // world), config.seed, rank, worn_share=config.worn_share)
    sizes = [config.size_at(step) for step in range(done, config.steps)]
    every = max(1, round(config.checkpoint_kimg * 1000 / config.batch_size))
    started, losses = time.monotonic(), []
    for number, batch in enumerate(source.stream(done, sizes, loaders), start=done):
        losses.append(student.step(model, batch, number))
        last = number + 1 == config.steps
        if (number + 1) % every == 0 or last:
            seconds = time.monotonic() - started
            rate = (number + 1 - done) * config.batch_size / seconds
            metrics = {
                "kimg": (number + 1) * config.batch_size / 1000,
                "loss": float(torch.stack(losses).mean()),
                "images_per_second": rate,
                "minutes_left": (config.steps - number - 1) * config.batch_size / rate / 60,
            }
            losses = []
            if rank == 0:
                _save(student.state(number + 1), path)
                log.info("%s", json.dumps({name: round(value, 4) for name, value in metrics.items()}))
            if report:
                report(metrics, path)
    return student.result()


def _save(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
