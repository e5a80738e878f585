"""What a checkpoint holds: everything that a run needs to go on as if it had never stopped.

::

    images-000000012800/
        autoencoder.safetensors …     what the strategy keeps: weights and optimizers
        ema.safetensors               EMA of generator and encoder
        bundle/                       that EMA as a model bundle, to render from
        state.json                    images seen, scores, configuration, fingerprint of the data

There is no random state in it: all draws follow from the seed and the images seen (see augment.py). So is the
position in the data: it is the images seen. Where checkpoints lie, and when one is complete: checkpoint_store.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from capricious.data import storage
from capricious.errors import CapriciousError

FORMAT_VERSION = 2
STATE_FILE = "state.json"

# What may differ when a run is taken up again: how long, how often, and on what it runs, not what is learnt.
FREE_FIELDS = frozenset(
    {
        "kimg",
        "max_minutes",
        "log_every",
        "checkpoint_kimg",
        "keep_checkpoints",
        "best_by",
        "best_is",
        "snapshot_kimg",
        "recalibrate_batches",
        "prometheus_port",
        "num_workers",
        "memory_budget_gb",
        "compile",
        "cuda_graphs",
        "channels_last",
        "device",
    }
)


def folder_name(images_seen: int) -> str:
    """Names a checkpoint; names sort by age."""
    return f"images-{images_seen:012d}"


def write_state(folder: str, state: Mapping[str, Any]) -> None:
    """Writes state.json, which declares the checkpoint in this folder or URL complete."""
    text = json.dumps({"format_version": FORMAT_VERSION, **state}, indent=2)
    storage.write_atomic(storage.join(folder, STATE_FILE), text.encode())


def read_state(folder: str) -> dict[str, Any]:
    """Reads state.json.

    Raises:
        CapriciousError: of another format version.
    """
    state = json.loads(storage.read(storage.join(folder, STATE_FILE)))
    if state["format_version"] != FORMAT_VERSION:
        raise CapriciousError(
            f"{folder} has format version {state['format_version']}, this code reads {FORMAT_VERSION}; "
            "continue it with the version that wrote it, or warm-start a new run from its weights"
        )
    return state


def refuse_other_run(saved: Mapping[str, Any], state: Mapping[str, Any], out: str, defaults: Mapping[str, Any]) -> None:
    """Refuses to continue a run with another configuration, other data, or where that cannot be: other processes.

    Args:
        saved, state: "config", "data_fingerprint" and "world_size" of the checkpoint and of this run.
        defaults: of the configuration; a run that was begun before there was a field had its default.

    Raises:
        CapriciousError: names every field that differs, with both values.
    """
    differences = list(_differences(saved["config"], state["config"], defaults))
    before, after = saved["data_fingerprint"], state["data_fingerprint"]
    if before != after:
        differences.append(f"the data (fingerprint {before[:12]}, now {after[:12]})")
    if differences:
        raise CapriciousError(
            f"{out} holds a run with other settings: {'; '.join(differences)}. "
            "Use the same settings to continue it, or another --out to begin anew"
        )
    if state["config"]["strategy"] == "deepspeed" and saved["world_size"] != state["world_size"]:
        # One file for each process and each shard of the optimizer; plain and ddp keep whole tensors instead.
        raise CapriciousError(
            f"{out} holds a DeepSpeed run of {saved['world_size']} processes, now there are {state['world_size']}: "
            f"continue it with {saved['world_size']}, or warm-start another --out from its weights. "
            "(Runs with strategy ddp continue with any number)"
        )


def _differences(
    saved: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any], where: str = "training"
) -> Iterator[str]:
    for key in sorted(saved.keys() | now.keys()):
        default = defaults.get(key)
        name, before, after = f"{where}.{key}", saved.get(key, default), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, default or {}, name)
        elif before != after and name.removeprefix("training.") not in FREE_FIELDS and not _alike(before, after):
            yield f"{name} was {before!r}, now {after!r}"


def _alike(before: Any, after: Any) -> bool:
    """Whether they are strategies that go on from each other's checkpoints."""
    return before in ("plain", "ddp") and after in ("plain", "ddp")


def save_module(module: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Writes weights and buffers as safetensors; `dtype` rounds the floating ones."""
    save_file({k: _storable(v, dtype) for k, v in module.state_dict().items()}, path)


def load_module(module: nn.Module, path: Path) -> None:
    """Reads what save_module wrote, into the module's own dtype and memory format.

    Raises:
        CapriciousError: names that are missing or unexpected, or a shape that differs.
    """
    try:
        module.load_state_dict(load_file(path))
    except RuntimeError as error:
        # torch names every tensor; the first tells enough.
        first = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise CapriciousError(f"{path} does not fit the network: {first}") from error


def save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Writes an optimizer's tensors as safetensors, named "<number of the parameter>.<name of the tensor>"."""
    state = optimizer.state_dict()["state"]
    save_file({f"{n}.{k}": _storable(v) for n, entry in state.items() for k, v in entry.items()}, path)


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Reads what save_optimizer wrote. Learning rates come from the configuration, not from the file."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in load_file(path).items():
        number, key = name.split(".", 1)
        parameter = parameters[int(number)]
        if value.shape == parameter.shape and value.ndim:
            # In the parameter's memory format and place: fused Adam wants them alike.
            value = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][key] = value.to(parameter.device) if _is_fused(optimizer) else value


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.param_groups[0].get("fused"))


def _storable(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
