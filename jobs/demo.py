"""A first look: portraits rendered at other ages by the bundle that ships with Capricious.

    python jobs/demo.py --out demo
    python jobs/demo.py --out demo --pictures paintings/

Look at OUT/index.html. Without --pictures: the portraits that ship with Capricious, which its own model made, and a
photograph in the public domain. Exit codes: 0 rendered, 1 none or an error, 2 wrong usage.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from skimage.data import astronaut

from capricious.cluster.job import run_job
from capricious.cluster.publish import exhibits
from capricious.cluster.render import RenderConfig, render
from capricious.faces.image import encode
from capricious.model.bundle import DEFAULT
from capricious.render.exhibition import exhibition_page
from capricious.render.samples import samples

INTRODUCTION = (
    "Every picture here was made on this machine just now, by the model that ships with Capricious: faces found, "
    "described, and rendered at other ages. What that model can do, and what not, is in its model card."
)


@dataclass(frozen=True)
class DemoConfig:
    """What the demo renders."""

    out: str = "demo"
    """Folder for everything. The same command again resumes."""
    pictures: str = ""
    """Folder of your own portraits."""
    bundle: str = DEFAULT
    """Model bundle; by default the one that ships with Capricious."""
    ages: str = "10:80:10"
    """Ages in years."""


def main(config: DemoConfig) -> int:
    out = Path(config.out).resolve()
    pictures = config.pictures or gather(out / "pictures")
    sweeps = str(out / "sweeps")
    done = render(RenderConfig(source=str(pictures), bundle=config.bundle, out=sweeps, ages=config.ages))
    print(f"{done.rendered} of {done.pictures} portraits rendered {done.reasons or ''}")
    page = out / "index.html"
    page.write_text(exhibition_page(exhibits(sweeps, below="sweeps"), title="Capricious", introduction=INTRODUCTION))
    print(f"Look at {page}")
    return 0 if done.rendered else 1


def gather(folder: Path) -> Path:
    """Puts the portraits that ship, and the photograph, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "astronaut.png").write_bytes(encode(astronaut(), "png"))
    for name, picture in samples().items():
        (folder / name).write_bytes(picture)
    return folder


if __name__ == "__main__":
    sys.exit(run_job(DemoConfig, main, __doc__))
