"""Makes the bundle that ships of one that a training left: the same, with weights in bfloat16.

    python examples/ship_bundle.py runs/default/bundle platform/capricious/model/default [--strength 1.25] [--mix OTHER]

What else lies in the folder, such as the model card, stays.
"""

import shutil
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from torch import nn

from capricious.model.bundle import load_bundle, save_bundle

COPIED = ("training", "data", "scores")
"""Of the bundle's info; what it is made of is told anew."""

LICENCE = "Apache-2.0; research use only, as are the photographs that it learnt from (see MODEL_CARD.md)"


def without_folders(value: Any) -> Any:
    """Returns a JSON value with absolute paths cut to their last two parts: whose machine it was concerns nobody."""
    if isinstance(value, dict):
        return {name: without_folders(each) for name, each in value.items()}
    if isinstance(value, str) and value.startswith("/"):
        return "/".join(value.split("/")[-2:])
    return value


def mix(network: nn.Module, other: nn.Module) -> None:
    """Gives a network the mean of its own weights and another's that went on from the same ones.

    Two such networks often lie in one valley, and its middle is better than either end (Wortsman et al. 2022, "Model
    soups").
    """
    theirs = other.state_dict()
    network.load_state_dict({name: own.lerp(theirs[name], 0.5) for name, own in network.state_dict().items()})


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("source")
    arguments.add_argument("target", type=Path)
    arguments.add_argument("--strength", type=float, help="how often changes are put back, if not as it was taught")
    arguments.add_argument("--mix", help="a bundle whose refinement network is mixed into this one's")
    options = arguments.parse_args()
    target: Path = options.target
    bundle = load_bundle(options.source)
    if options.mix is not None:
        other = load_bundle(options.mix)
        if bundle.refinement is None or other.refinement is None:
            arguments.error("--mix: both bundles need a refinement network")
        mix(bundle.refinement, other.refinement)
    info = {name: without_folders(bundle.info[name]) for name in COPIED}
    info |= {"licence": LICENCE, "strength": bundle.strength if options.strength is None else options.strength}
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "bundle"
        save_bundle(
            fresh,
            bundle.generator,
            bundle.encoder,
            info,
            refinement=bundle.refinement,
            training_pictures=bundle.training_pictures,
            learnt=bundle.learnt,
            dtype="bfloat16",
        )
        target.mkdir(parents=True, exist_ok=True)
        for file in fresh.iterdir():
            shutil.copyfile(file, target / file.name)
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
