"""Makes the bundle that ships of one that a training left: the same, with weights in bfloat16.

    python examples/ship_bundle.py runs/default/bundle platform/capricious/model/default

What else lies in the folder, such as the model card, stays.
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.model.bundle import load_bundle, save_bundle

OWN = "format_version code_version resolution alignment classes attribute_vector architecture dtype files learnt".split()


def main(source: str, target: Path) -> None:
    bundle = load_bundle(source)
    info = {name: value for name, value in bundle.info.items() if name not in OWN}
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "bundle"
        save_bundle(
            fresh,
            bundle.generator,
            bundle.encoder,
            info,
            training_pictures=bundle.training_pictures,
            learnt=bundle.learnt,
            dtype="bfloat16",
        )
        target.mkdir(parents=True, exist_ok=True)
        for file in fresh.iterdir():
            shutil.copyfile(file, target / file.name)
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
