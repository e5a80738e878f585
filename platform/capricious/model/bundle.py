"""The model bundle: all that render and serve need, in one folder.

    bundle.json              what it is: architecture, attribute order, classes, training, licence, hashes
    generator.safetensors    weights to release (the exponential moving average)
    encoder.safetensors
    refinement.safetensors   the network that puts changes back into portraits (optional)
    training_pictures.safetensors   which pictures it was trained on: 8 bytes of each one's hash (optional)

Spectral norm is worked into the weights on saving, so a loaded bundle is a network of plain convolutions.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

import capricious
from capricious.errors import CapriciousError
from capricious.faces.attributes import VECTOR_FIELDS, VECTOR_VERSION
from capricious.faces.label_map import CLASSES
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig
from capricious.model.layers import plain_state
from capricious.model.learnt import Learnt
from capricious.model.refinement import Refinement, RefinementConfig

FORMAT_VERSION = 1
INFO = "bundle.json"
TRAINING_PICTURES = "training_pictures.safetensors"
ALIGNMENT = "ffhq"
DEFAULT = "capricious://default"
"""Names the bundle that ships with the package, on every machine that has the package."""
_DEFAULT_FOLDER = Path(__file__).with_name("default")
MAX_STRENGTH = 3.0
"""Beyond it nothing is left of a portrait."""
_OLD = "-old"
"""Ends the name of a bundle that is set aside while it is replaced."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Bundle:
    """A generator, the style encoder that goes with it, and what is known about them.

    Attributes:
        generator, encoder, refinement: in eval mode, without gradients, float32, on the CPU when loaded. Without a
            refinement network, changes are put back into portraits as they are.
        info: the content of bundle.json.
        learnt: which attributes and ages it was trained on; None where the bundle does not say.
        training_pictures: sorted uint64 names of the pictures that it was trained on (data.records.picture_names),
            so that nobody measures it on them unawares; None where the bundle does not say.
    """

    generator: Generator
    encoder: StyleEncoder
    info: dict[str, Any]
    training_pictures: np.ndarray | None = None
    refinement: Refinement | None = None

    @cached_property
    def learnt(self) -> Learnt | None:
        return Learnt.of_info(self.info)

    @property
    def strength(self) -> float:
        """How many times over its changes are put back into a portrait, unless someone asks otherwise."""
        return strength_of(self.info)

    @property
    def sha256(self) -> str:
        """Names the bundle by content: the hash of its info, which holds the hashes of the weights."""
        return hashlib.sha256(_text(self.info).encode()).hexdigest()


def strength_of(info: Mapping[str, Any]) -> float:
    """Returns what bundle.json says of `Bundle.strength`; 1 where it says nothing."""
    return float(info.get("strength", 1.0))


def save_bundle(
    folder: str | os.PathLike[str],
    generator: Generator,
    encoder: StyleEncoder,
    info: dict[str, Any] | None = None,
    *,
    refinement: Refinement | None = None,
    training_pictures: np.ndarray | None = None,
    learnt: Learnt | None = None,
    dtype: str = "float32",
) -> None:
    """Writes a bundle, all of it or nothing; an older bundle in the same place is replaced.

    A kill in the moment between the old one and the new one leaves neither here, but the old one beside it under a
    hidden name, which load_bundle() then tells.

    Args:
        folder: where to; parents are made.
        generator, encoder, refinement: networks with the weights to release; they stay as they are.
        info: training config, data fingerprint, metrics, licence, strength …: anything that JSON can hold, under
            names that the bundle does not use itself.
        training_pictures: uint64 names of the pictures that it was trained on, in any order; None: not recorded.
        learnt: which attributes and ages those pictures had; None: not recorded.
        dtype: of the weights on disk, "float32" or "bfloat16" (half the size, 3 significant digits).

    Raises:
        CapriciousError: `folder` holds something else than a bundle, or a name in `info` is taken.
        ValueError: an unknown dtype.
    """
    folder = Path(folder)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, found: {dtype!r}")
    if folder.exists() and not (folder / INFO).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CapriciousError(
            f"{folder} exists and is not a bundle (it has no {INFO}); choose another folder or remove it"
        )
    weights = {
        "generator.safetensors": _weights(generator, DTYPES[dtype]),
        "encoder.safetensors": _weights(encoder, DTYPES[dtype]),
    }
    architecture = {"generator": asdict(generator.config), "encoder": asdict(encoder.config)}
    if refinement is not None:
        weights["refinement.safetensors"] = _weights(refinement, DTYPES[dtype])
        architecture["refinement"] = asdict(refinement.config)
    if training_pictures is not None:
        weights[TRAINING_PICTURES] = pictures_file(training_pictures)
    own = {
        "format_version": FORMAT_VERSION,
        "code_version": capricious.__version__,
        "resolution": generator.config.resolution,
        "alignment": ALIGNMENT,
        "classes": list(CLASSES),
        "attribute_vector": {"version": VECTOR_VERSION, "fields": list(VECTOR_FIELDS)},
        "architecture": architecture,
        "dtype": dtype,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in weights.items()
        },
        **({} if learnt is None else {"learnt": learnt.to_json()}),
    }
    if taken := own.keys() & (info or {}):
        raise CapriciousError(f"info for a bundle must not contain {', '.join(sorted(taken))}: the bundle sets them")
    _replace(folder, {**weights, INFO: _text({**own, **(info or {})}).encode()})


def load_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Reads a bundle: float32, eval mode, no gradients.

    Args:
        folder: of the bundle, or DEFAULT.

    Raises:
        CapriciousError: no bundle there, one of another format or attribute vector, or with a file that
            is missing or changed; the message names the field or file.
    """
    folder = _DEFAULT_FOLDER if folder == DEFAULT else Path(folder)
    info = _read_info(folder)
    try:
        generator_config = GeneratorConfig(**info["architecture"]["generator"])
        encoder_config = EncoderConfig(**info["architecture"]["encoder"])
        refinement_config = RefinementConfig(**info["architecture"].get("refinement", {}))
    except (KeyError, TypeError) as error:
        raise CapriciousError(f"{folder / INFO}: architecture does not fit this version: {error}") from None
    # On "meta" no time is spent on initial weights, which are replaced at once.
    with torch.device("meta"):
        generator = Generator(generator_config, spectral=False)
        encoder = StyleEncoder(encoder_config, spectral=False)
        refinement = Refinement(refinement_config) if "refinement" in info["architecture"] else None
    _load_weights(generator, folder / "generator.safetensors", info)
    _load_weights(encoder, folder / "encoder.safetensors", info)
    if refinement is not None:
        _load_weights(refinement, folder / "refinement.safetensors", info)
    pictures = None
    if TRAINING_PICTURES in info["files"]:
        pictures = pictures_of(_read_checked(folder / TRAINING_PICTURES, info))
    return Bundle(generator, encoder, info, pictures, refinement)


def pictures_file(names: np.ndarray) -> bytes:
    """Returns the content of TRAINING_PICTURES for uint64 names in any order."""
    # safetensors' torch side has no uint64; the bits are what counts.
    return save_safetensors({"pictures": torch.from_numpy(np.unique(names.astype(np.uint64)).view(np.int64))})


def pictures_of(content: bytes) -> np.ndarray:
    """Returns the sorted uint64 names in the content of TRAINING_PICTURES."""
    return load_safetensors(content)["pictures"].numpy().view(np.uint64)


def _text(info: dict[str, Any]) -> str:
    return json.dumps(info, indent=2, ensure_ascii=False) + "\n"


def _weights(network: nn.Module, dtype: torch.dtype) -> bytes:
    state = plain_state(network)
    for name, value in state.items():
        # The running statistics of the batch norm stay exact: they are few.
        exact = "running_" in name or not value.is_floating_point()
        state[name] = value.to("cpu", None if exact else dtype).contiguous()
    return save_safetensors(state)


def _replace(folder: Path, files: dict[str, bytes]) -> None:
    """Writes the files beside `folder` and renames: a reader never sees half a bundle."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        fresh.chmod(0o755)  # mkdtemp's folders are closed to all others
        if (folder / INFO).is_file():
            _swap(fresh, folder)
        else:
            fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _swap(fresh: Path, folder: Path) -> None:
    """Puts one folder in the place of another, which goes; or leaves the other where it is."""
    old = fresh.with_name(fresh.name + _OLD)
    try:
        folder.rename(old)
        fresh.rename(folder)  # a kill just before leaves no bundle here: _set_aside() finds it
    except BaseException:
        if not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old)


def _set_aside(folder: Path) -> list[Path]:
    """Returns the older bundles of a place that kills left beside it before newer ones were there."""
    return sorted(folder.parent.glob(f".{glob.escape(folder.name)}-{'?' * 8}{_OLD}"))  # mkdtemp adds 8 letters


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError:
        aside = _set_aside(folder)
        remedy = f"; a save was killed while it replaced the one here: rename {aside[-1]} to {folder}" if aside else ""
        raise CapriciousError(f"{folder} is not a model bundle: it has no {INFO}{remedy}") from None
    except ValueError as error:
        raise CapriciousError(f"{folder / INFO} is not valid JSON: {error}") from None
    version = info.get("format_version")
    if version != FORMAT_VERSION:
        raise CapriciousError(
            f"{folder / INFO}: format_version must be {FORMAT_VERSION}, found: {version!r}; "
            "use the version of capricious that wrote it, or train again"
        )
    vector = {"version": VECTOR_VERSION, "fields": list(VECTOR_FIELDS)}
    expected = {"attribute_vector": vector, "classes": list(CLASSES), "alignment": ALIGNMENT}
    for field, value in expected.items():
        if info.get(field) != value:
            raise CapriciousError(f"{folder / INFO}: {field} must be {value}, found: {info.get(field)!r}; train again")
    strength = info.get("strength", 1.0)
    if not isinstance(strength, int | float) or not 0 < strength <= MAX_STRENGTH:
        raise CapriciousError(f"{folder / INFO}: strength must be in 0…{MAX_STRENGTH:g}, found: {strength!r}")
    for field in ("architecture", "files"):
        if not isinstance(info.get(field), dict):
            raise CapriciousError(f"{folder / INFO}: {field} must be an object, found: {info.get(field)!r}")
    return info


def _read_checked(path: Path, info: dict[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CapriciousError(f"the bundle is not complete: {path} is missing; copy the bundle again") from None
    expected = info["files"].get(path.name, {}).get("sha256")
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CapriciousError(f"{path}: sha256 must be {expected}, found: {found}; copy the bundle again")
    return content


def _load_weights(network: nn.Module, path: Path, info: dict[str, Any]) -> None:
    content = _read_checked(path, info)
    state = {k: v.float() if v.is_floating_point() else v for k, v in load_safetensors(content).items()}
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CapriciousError(f"{path} does not fit the architecture in {INFO}: {error}") from None
    network.eval().requires_grad_(False)
