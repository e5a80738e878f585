"""Networks that begin from what another run has learnt: its weights, or a bundle."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize

from capricious.data import storage
from capricious.errors import CapriciousError
from capricious.model.bundle import DEFAULT, INFO, TRAINING_PICTURES, Bundle, load_bundle, pictures_of
from capricious.model.discriminator import Discriminator
from capricious.model.encoder import StyleEncoder
from capricious.model.generator import Generator
from capricious.model.layers import load_plain_state, plain_state
from capricious.model.refinement import Refinement
from capricious.training import checkpoint
from capricious.training.networks import Autoencoder, seeded

log = logging.getLogger(__name__)

NO_PICTURES = np.zeros(0, np.uint64)

_Part = Generator | StyleEncoder | Refinement

_ANEW = "the discriminator starts anew, and the first pictures may get worse"
_AT_FIRST = "changes are put back as they are at first"


def warm_start(source: str, autoencoder: Autoencoder, discriminator: Discriminator, seed: int) -> np.ndarray:
    """Loads weights that another run left, before any optimizer is made.

    Args:
        source: the run's `weights` folder, which may lack the discriminator; or a bundle, which has none. A path, an
            address in an object store, or DEFAULT.
        seed: of spectral norms, which start anew where the weights have none.

    Returns:
        uint64 names of the pictures that those weights have learnt, as far as they are recorded.

    Raises:
        CapriciousError: the folder lacks the generator or the encoder, or they have another shape.
    """
    with _local(source) as folder, seeded(seed):
        if source == DEFAULT or Path(folder, INFO).is_file():
            return _from_bundle(source, load_bundle(folder), autoencoder)
        return _from_weights(source, Path(folder), autoencoder, discriminator)


@contextmanager
def _local(source: str) -> Iterator[str]:
    """Gives a folder by its local path while it is open; a copy of one that lies in an object store."""
    if "://" not in source or source == DEFAULT:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="warm-start-") as folder:
        storage.download_tree(source, folder)
        yield folder


def _from_weights(source: str, folder: Path, autoencoder: Autoencoder, discriminator: Discriminator) -> np.ndarray:
    networks: dict[str, nn.Module] = {"generator": autoencoder.generator, "encoder": autoencoder.encoder}
    if autoencoder.refinement is not None:
        networks["refinement"] = autoencoder.refinement
    for name, network in {**networks, "discriminator": discriminator}.items():
        path, told = folder / f"{name}.safetensors", storage.join(source, f"{name}.safetensors")
        if path.is_file():
            _fill(network, path)
        elif name == "refinement":
            log.info("%s is missing: %s", told, _AT_FIRST)
        elif name == "discriminator":
            log.warning("%s is missing: %s", told, _ANEW)
        else:
            raise CapriciousError(
                f"training.warm_start: {told} is missing; give the weights folder of another run, or a bundle"
            )
    pictures = folder / TRAINING_PICTURES
    return pictures_of(pictures.read_bytes()) if pictures.is_file() else NO_PICTURES


def _fill(network: nn.Module, path: Path) -> None:
    """Loads weights that a run left; its spectral norms are worked in where the network has none, and the other way
    round they start anew."""
    spectral = any(parametrize.is_parametrized(module) for module in network.modules())
    with safe_open(path, "pt") as file:
        names = file.keys()
    if spectral == any(".parametrizations." in name for name in names):
        checkpoint.load_module(network, path)
    elif spectral:
        load_plain_state(network, load_file(path))
    else:
        assert isinstance(network, Generator | StyleEncoder)
        learner: nn.Module = type(network)(network.config)  # type: ignore[arg-type]
        checkpoint.load_module(learner, path)
        network.load_state_dict(plain_state(learner))


def _from_bundle(source: str, bundle: Bundle, autoencoder: Autoencoder) -> np.ndarray:
    for network, filled in ((autoencoder.generator, bundle.generator), (autoencoder.encoder, bundle.encoder)):
        _require_fit(source, network, filled)
        load_plain_state(network, filled.state_dict())
    refinement, found = autoencoder.refinement, bundle.refinement
    if refinement is not None and found is not None:
        _require_fit(source, refinement, found)
        refinement.load_state_dict(found.state_dict())
    elif refinement is not None:
        log.info("%s has no refinement network: %s", source, _AT_FIRST)
    elif found is not None:
        log.warning(
            "%s has a refinement network of width %d, which is left out: --training.network.refinement-width %d "
            "takes it up",
            source,
            found.config.width,
            found.config.width,
        )
    log.info("%s is a bundle: %s", source, _ANEW)
    return NO_PICTURES if bundle.training_pictures is None else bundle.training_pictures


def _require_fit(source: str, network: _Part, filled: _Part) -> None:
    wanted, found = asdict(network.config), asdict(filled.config)
    if other := [f"{key} {found[key]}, not {wanted[key]}" for key in wanted if wanted[key] != found[key]]:
        kind = type(network).__name__
        raise CapriciousError(f"training.warm_start: {source} does not fit: its {kind} has {'; '.join(other)}")
