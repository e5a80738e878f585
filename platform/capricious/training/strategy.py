"""Over how many processes a step is spread, and how: plain, DDP, or DeepSpeed ZeRO.

All three learn the same (tested), but for `training.mismatched`, whose wrong attributes are those of the next sitter
of the same process. At the default size DDP is the fastest; DeepSpeed is for networks whose
optimizer states or weights do not fit beside the pictures on one GPU.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from capricious.errors import ConfigError
from capricious.training import checkpoint
from capricious.training.compiled import compile_pieces
from capricious.training.config import TrainingConfig

log = logging.getLogger(__name__)


class Player(Protocol):
    """One side of the game: a network with its optimizer.

    Attributes:
        module: the bare network. Called directly, it takes no part in the exchange of gradients.
    """

    module: nn.Module

    def __call__(self, *inputs: Any) -> Any:
        """Runs the network such that `update` can follow."""
        ...

    def scale_rate(self, scale: float) -> None:
        """Sets what share of its learning rate the next updates take."""
        ...

    def update(self, loss: Tensor) -> None:
        """Takes one optimizer step down the gradient of `loss`, averaged over the processes."""
        ...

    def gathered(self) -> AbstractContextManager[Any]:
        """While it is open, `module` holds its full weights for reading (ZeRO-3 keeps them apart)."""
        ...

    def save(self, folder: Path, name: str) -> None:
        """Writes weights and optimizer; all processes call it."""
        ...

    def load(self, folder: Path, name: str) -> None:
        """Reads what `save` wrote; all processes call it."""
        ...


class Strategy(Protocol):
    """How the players are spread, and the processes that they are spread over."""

    processes: Processes

    def player(self, network: nn.Module, learning_rate: float) -> Player:
        """Moves a network to this process's device and gives it an optimizer."""
        ...


class Processes:
    """The processes that train together; of one each where there is no process group.

    Attributes:
        rank, world_size: of this process, and their number.
        local_rank: rank among the processes of this machine.
        device: where this process computes.
    """

    def __init__(self, device: str, *, joined: bool):
        """With `joined`, uses the process group that Ray Train or the caller made, or makes one: from torchrun's
        environment variables, or, without them, for this process alone."""
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
        if cuda and not torch.cuda.is_available():
            raise ConfigError("training.device is cuda, but PyTorch finds no CUDA device; use cpu or auto")
        self.device = torch.device("cuda", self.local_rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)  # for nccl, and for streams and graphs that name none
        self._mine = False
        if joined and not dist.is_initialized():
            self._join("nccl" if cuda else "gloo")
        self.rank = dist.get_rank() if joined else 0
        self.world_size = dist.get_world_size() if joined else 1

    def _join(self, backend: str) -> None:
        if "RANK" in os.environ:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        self._mine = True

    def mean(self, values: Tensor) -> Tensor:
        """Returns the mean of a tensor over the processes."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def total(self, value: int) -> int:
        """Returns the sum of a whole number over the processes."""
        if self.world_size > 1:
            sum_of_all = torch.tensor(value, dtype=torch.int64, device=self.device)
            dist.all_reduce(sum_of_all)
            value = int(sum_of_all)
        return value

    def from_first(self, value: int) -> int:
        """Returns the whole number that the first process gave."""
        return self.total(value if self.rank == 0 else 0)

    def wait(self) -> None:
        """Returns when all processes are here."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leaves the process group if it was made here."""
        if self._mine:
            dist.destroy_process_group()


def create(config: TrainingConfig) -> Strategy:
    """Returns the strategy that the configuration names.

    Raises:
        ConfigError: more than one process with "plain"; CUDA or its graphs asked for where there is none.
    """
    if config.strategy == "deepspeed":
        return DeepSpeedStrategy(config)
    return TorchStrategy(config)


class TorchStrategy:
    """One process ("plain"), or torch's DistributedDataParallel ("ddp"); the same numbers with one process."""

    def __init__(self, config: TrainingConfig):
        if config.strategy == "plain" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                f"training.strategy is plain, but {os.environ['WORLD_SIZE']} processes were started: "
                "each would train a model of its own; use --training.strategy ddp or deepspeed"
            )
        self.processes = Processes(config.device, joined=config.strategy == "ddp")
        if config.cuda_graphs and self.processes.device.type != "cuda":
            raise ConfigError("training.cuda_graphs needs a CUDA device, and PyTorch finds none; leave it out")
        self._config = config

    def player(self, network: nn.Module, learning_rate: float) -> TorchPlayer:
        """See Strategy.player."""
        network = _placed(network, self.processes, self._config)
        optimizer = _adam(network, learning_rate, self._config)
        return TorchPlayer(network, optimizer, self.processes, wrap=self._config.strategy == "ddp")


class TorchPlayer:
    """A network with its optimizer, wrapped in DDP or not. Both write the same checkpoints."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes, wrap: bool):
        self.module = network
        self._optimizer, self._processes = optimizer, processes
        self._learning_rate = float(optimizer.param_groups[0]["lr"])
        self._forward = network
        if wrap:
            ids = [processes.device.index] if processes.device.type == "cuda" else None
            self._forward = DistributedDataParallel(network, device_ids=ids)

    def __call__(self, *inputs: Any) -> Any:
        return self._forward(*inputs)

    def scale_rate(self, scale: float) -> None:
        for group in self._optimizer.param_groups:
            rate = self._learning_rate * scale
            if isinstance(group["lr"], Tensor):  # a recorded update reads it where it is
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def update(self, loss: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()

    def gathered(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def save(self, folder: Path, name: str) -> None:
        if self._processes.rank == 0:
            checkpoint.save_module(self.module, folder / f"{name}.safetensors")
            checkpoint.save_optimizer(self._optimizer, folder / f"{name}-optimizer.safetensors")

    def load(self, folder: Path, name: str) -> None:
        checkpoint.load_module(self.module, folder / f"{name}.safetensors")
        checkpoint.load_optimizer(self._optimizer, folder / f"{name}-optimizer.safetensors")


class DeepSpeedStrategy:
    """Two DeepSpeed engines, ZeRO stage 0…3.

    Its checkpoints are DeepSpeed's own (pickles, one shard a process: trust them as you trust the machine
    that wrote them, and resume with as many processes). The EMA weights beside them are safetensors.
    """

    def __init__(self, config: TrainingConfig):
        # DeepSpeed looks at these when it is imported: the device, and where it builds its C++ parts.
        if config.device == "cpu" or not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(cache / "capricious" / "torch_extensions"))
        os.environ.setdefault("LOCAL_RANK", "0")
        self.processes = Processes(config.device, joined=True)
        self._config = config

    def player(self, network: nn.Module, learning_rate: float) -> DeepSpeedPlayer:
        """See Strategy.player."""
        network = _placed(network, self.processes, self._config)
        optimizer = _adam(network, learning_rate, self._config)
        return DeepSpeedPlayer(network, optimizer, deepspeed_config(self._config, self.processes.world_size))


def deepspeed_config(config: TrainingConfig, world_size: int) -> dict[str, Any]:
    """Returns DeepSpeed's configuration; each entry is there for a reason (all tried with 0.19.8)."""
    in_memory = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    offloaded: dict[str, Any] = {}
    if config.offload != "none":
        offloaded["offload_optimizer"] = in_memory
    if config.offload == "all":
        offloaded["offload_param"] = in_memory
    return {
        "train_micro_batch_size_per_gpu": config.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        # The default is 1.0 and says nothing: ZeRO would then learn something else than DDP.
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": config.zero_stage, **offloaded},
        # The optimizer is torch's Adam, for the same numbers as the other strategies.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Not "bf16": {"enabled": …}, which casts the weights and fails in batch norm on CPU.
        # Without modules that it calls safe: it would exchange their gradients in bfloat16, and DDP does not.
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


class DeepSpeedPlayer:
    """A network in a DeepSpeed engine."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any]):
        import deepspeed  # slow to import, and needed by this strategy alone

        self._deepspeed = deepspeed
        self._learning_rate = optimizer.param_groups[0]["lr"]
        self._sharded = config["zero_optimization"]["stage"] == 3
        self._engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=config)
        self.module: nn.Module = self._engine.module

    def __call__(self, *inputs: Any) -> Any:
        return self._engine(*inputs)

    def scale_rate(self, scale: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._learning_rate * scale

    def update(self, loss: Tensor) -> None:
        self._engine.backward(loss)
        self._engine.step()

    def gathered(self) -> AbstractContextManager[Any]:
        if not self._sharded:
            return nullcontext()
        return self._deepspeed.zero.GatheredParameters(list(self.module.parameters()))

    # A folder for each engine: both write a file called "latest".
    def save(self, folder: Path, name: str) -> None:
        self._engine.save_checkpoint(str(folder / name), tag="state")

    def load(self, folder: Path, name: str) -> None:
        self._engine.load_checkpoint(str(folder / name), tag="state")


def _placed(network: nn.Module, processes: Processes, config: TrainingConfig) -> nn.Module:
    """Moves a network to its device, in the memory format and with the batch norm that the processes need."""
    if processes.world_size > 1 and any(isinstance(m, nn.BatchNorm2d) for m in network.modules()):
        if processes.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        elif processes.rank == 0:
            log.warning(
                "Batch norm is not synchronised: PyTorch has no SyncBatchNorm on CPU. Each process normalises with "
                "its own %d pictures; use --training.network.norm instance for results that do not depend on the "
                "number of processes",
                config.batch_size // processes.world_size,
            )
    network = network.to(processes.device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.compile:
        compile_pieces(network)
    return network


def _adam(network: nn.Module, learning_rate: float, config: TrainingConfig) -> torch.optim.Optimizer:
    # One pass over weights and moments instead of a dozen: four times faster on a CPU, too.
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    graphs = config.cuda_graphs
    rate = torch.tensor(learning_rate, device=learning[0].device) if graphs else learning_rate
    return torch.optim.Adam(learning, rate, config.betas, config.epsilon, fused=True, capturable=graphs)
