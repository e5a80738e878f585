"""Checkpoints: everything that a run needs to go on as if it had never stopped.

::

    out/checkpoints/images-000000012800/
        state.json                    images seen, configuration, fingerprint of the data
        ema.safetensors               EMA of generator and encoder
        autoencoder.safetensors …     what the strategy keeps: weights and optimizers

A folder is written under another name and then renamed, so that one with the right name is complete.
There is no random state in it: all draws follow from the seed and the images seen (see augment.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from capricious.errors import CapriciousError

FORMAT_VERSION = 1
STATE_FILE = "state.json"

# What may differ when a run is taken up again: how long, how often, and on what it runs, not what is learnt.
FREE_FIELDS = frozenset(
    {
        "kimg",
        "max_minutes",
        "log_every",
        "checkpoint_kimg",
        "keep_checkpoints",
        "snapshot_kimg",
        "num_workers",
        "memory_budget_gb",
        "compile",
        "channels_last",
        "device",
    }
)


def folder_name(images_seen: int) -> str:
    """Names a checkpoint; names sort by age."""
    return f"images-{images_seen:012d}"


def latest(out: Path) -> Path | None:
    """Returns the newest complete checkpoint under `out`, or None."""
    found = sorted((out / "checkpoints").glob("images-*"))
    return found[-1] if found else None


def begin(out: Path, images_seen: int) -> Path:
    """Makes the folder that a checkpoint is first written to. All processes may call it."""
    folder = out / "checkpoints" / f".writing-{folder_name(images_seen)}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def commit(folder: Path, keep: int) -> Path:
    """Gives a completely written folder its name, and deletes all but the newest `keep` checkpoints.

    Called by one process a machine, after all have written.
    """
    final = folder.with_name(folder.name.removeprefix(".writing-"))
    if final.exists():
        shutil.rmtree(final)
    folder.rename(final)
    for old in sorted(final.parent.glob("images-*"))[:-keep]:
        shutil.rmtree(old)
    for abandoned in final.parent.glob(".writing-*"):
        shutil.rmtree(abandoned)
    return final


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes state.json."""
    text = json.dumps({"format_version": FORMAT_VERSION, **state}, indent=2)
    (folder / STATE_FILE).write_text(text, encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """Reads state.json.

    Raises:
        CapriciousError: of another format version.
    """
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    if state["format_version"] != FORMAT_VERSION:
        raise CapriciousError(
            f"{folder} has format version {state['format_version']}, this code reads {FORMAT_VERSION}; "
            "continue it with the version that wrote it, or warm-start a new run from its weights"
        )
    return state


def refuse_other_run(saved: Mapping[str, Any], config: Mapping[str, Any], fingerprint: str, out: Path) -> None:
    """Refuses to continue a run with another configuration or other data.

    Raises:
        CapriciousError: names every field that differs, with both values.
    """
    differences = list(_differences(saved["config"], config))
    if saved["data_fingerprint"] != fingerprint:
        differences.append(f"the data (fingerprint {saved['data_fingerprint'][:12]}, now {fingerprint[:12]})")
    if differences:
        raise CapriciousError(
            f"{out} holds a run with other settings: {'; '.join(differences)}. "
            "Use the same settings to continue it, or another --out to begin anew"
        )


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any], where: str = "training") -> Iterator[str]:
    for key in sorted(saved.keys() | now.keys()):
        name, before, after = f"{where}.{key}", saved.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, name)
        elif before != after and name.removeprefix("training.") not in FREE_FIELDS:
            yield f"{name} was {before!r}, now {after!r}"


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
        raise CapriciousError(f"{path} does not fit the network: {error}") from error


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
