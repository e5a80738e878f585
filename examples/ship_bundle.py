"""Makes the bundle that ships of one that a training left: the same, with weights in bfloat16.

    python examples/ship_bundle.py runs/default/bundle platform/capricious/model/default [STRENGTH]

STRENGTH is how many times over its changes are put back into a portrait, if not as often as it was taught. What else
lies in the folder, such as the model card, stays.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

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


def main(source: str, target: Path, strength: float | None = None) -> None:
    bundle = load_bundle(source)
    info = {name: without_folders(bundle.info[name]) for name in COPIED}
    info |= {"licence": LICENCE, "strength": bundle.strength if strength is None else strength}
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
    main(sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:4]))
