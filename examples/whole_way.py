"""The whole way, from pictures to an ageing sweep, on this machine: what `make whole-way` runs.

    python examples/whole_way.py --out whole-way [--faces FOLDER] [--minutes 6]

Takes a photograph that scikit-image ships and, where there is a folder of research data (--data), paintings and
faces from there; prepares the faces, trains a small model on them for some minutes, renders the portraits at other
ages. Nothing is computed beforehand. A model of a few minutes shows that every stage works; it is no work of art.
"""

from __future__ import annotations

import csv
import io
import shutil
import sys
import tarfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from skimage.data import astronaut

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.annotate.annotator import AnnotatorConfig
from capricious.cluster.job import run_job
from capricious.cluster.prepare import SHEET, PrepareConfig, prepare
from capricious.cluster.publish import exhibits
from capricious.cluster.render import RenderConfig, render
from capricious.cluster.train import TrainConfig, run_training
from capricious.config import from_mapping
from capricious.errors import CapriciousError
from capricious.faces.image import encode
from capricious.render.exhibition import Exhibit, exhibition_page
from capricious.training.config import TrainingConfig

RECIPE = Path(__file__).with_name("whole_way.yaml")
FACE_SETS = ("aaf.tar", "utkface.tar")
PAINTINGS = "paintings.tar"


@dataclass(frozen=True)
class WholeWayConfig:
    """What it takes and makes."""

    out: str = "whole-way"
    """Folder for everything; emptied first."""
    data: str = "../shared/data"
    """Folder with aaf.tar, utkface.tar and paintings.tar, if there is one."""
    faces: str = ""
    """Folder of pictures to train on instead of these, with a labels.csv if there is one."""
    count: int = 200
    """Number of faces to train on."""
    paintings: int = 5
    """Number of paintings to render, besides the photograph."""
    minutes: float = 6.0
    """Time to train."""
    ages: str = "10:80:10"
    """Ages to render."""


def main(config: WholeWayConfig) -> int:
    started = time.monotonic()
    out = Path(config.out).resolve()
    if out.exists() and any(out.iterdir()) and not (out / "pictures").is_dir():
        raise CapriciousError(f"{out} holds something else; choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    portraits = gather_portraits(out / "pictures", Path(config.data), config.paintings)
    faces = config.faces or gather_faces(out / "faces", Path(config.data), config.count) or str(portraits)
    recipe = from_mapping(TrainingConfig, yaml.safe_load(RECIPE.read_text()), where=str(RECIPE))

    step(1, f"prepare: python jobs/prepare.py --source {faces} --out {out}/prepared")
    annotator = AnnotatorConfig(resolution=recipe.resolution)
    prepared = prepare(
        PrepareConfig(
            source=str(faces), out=str(out / "prepared"), limit=config.count, test_share=0.0, annotator=annotator
        )
    )
    print(f"{prepared.portraits} portraits, {prepared.rejects} rejected {prepared.reasons or ''}")

    step(2, f"train: python jobs/train.py --config {RECIPE.name} --data {out}/prepared --out {out}/train")
    recipe = replace(recipe, max_minutes=config.minutes)
    metrics = run_training(TrainConfig((str(out / "prepared"),), str(out / "train"), training=recipe))
    print(f"{metrics['kimg']:.1f} thousand pictures seen")

    step(3, f"render: python jobs/render.py --source {portraits} --bundle {out}/train/bundle --out {out}/sweeps")
    rendered = render(
        RenderConfig(source=str(portraits), bundle=metrics["bundle"], out=str(out / "sweeps"), ages=config.ages)
    )
    print(f"{rendered.rendered} of {rendered.pictures} pictures rendered {rendered.reasons or ''}")

    page = write_page(out, prepared.portraits, metrics["kimg"])
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes. Look at {page}")
    return 0 if rendered.rendered else 1


def step(number: int, text: str) -> None:
    print(f"\n[{number}/3] {text}", flush=True)


def gather_portraits(folder: Path, data: Path, paintings: int) -> Path:
    """Collects what will be rendered: one photograph in the public domain, and paintings where there are any."""
    folder.mkdir(parents=True)
    (folder / "astronaut.png").write_bytes(encode(astronaut(), "png"))
    if (data / PAINTINGS).is_file():
        extract_evenly(data / PAINTINGS, folder, paintings, prefix="wikiart")
    return folder


def gather_faces(folder: Path, data: Path, count: int) -> str | None:
    """Collects labelled faces to train on, evenly from each set at hand, with one labels.csv; None without any."""
    sets = [data / name for name in FACE_SETS if (data / name).is_file()]
    if not sets:
        print(f"No faces in {data}: the model is trained on the portraits alone, too few to learn what age looks like.")
        return None
    rows = []
    for tar in sets:
        below = folder / tar.stem
        below.mkdir(parents=True)
        for row in extract_evenly(tar, below, count // len(sets)):
            rows.append({"file": f"{tar.stem}/{row['file']}", "age": row["age"], "gender": row["gender"]})
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "age", "gender"])
        writer.writeheader()
        writer.writerows(rows)
    return str(folder)


def extract_evenly(tar: Path, folder: Path, count: int, prefix: str = "") -> list[dict[str, str]]:
    """Extracts `count` pictures whose names begin with `prefix`, spread evenly over the rows of the archive's
    labels.csv; returns their rows."""
    with tarfile.open(tar) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
        table = archive.extractfile(members["labels.csv"])
        assert table is not None  # it is a file
        rows = [row for row in csv.DictReader(io.TextIOWrapper(table, "utf-8")) if row["file"].startswith(prefix)]
        chosen = [rows[i * len(rows) // count] for i in range(min(count, len(rows)))]
        for row in chosen:
            source = archive.extractfile(members[row["file"]])
            assert source is not None
            (folder / row["file"]).write_bytes(source.read())
    return chosen


def write_page(out: Path, portraits: int, kimg: float) -> Path:
    """Writes index.html: the sweeps, then what was found in the training faces, then the training's last grid."""
    grid = max((out / "train" / "snapshots").glob("*.png"))
    shown = [
        *exhibits(str(out / "sweeps"), below="sweeps"),
        Exhibit("What the model learnt from", f"{portraits} faces", "crop, landmarks, label map", f"prepared/{SHEET}"),
        Exhibit(
            "What it learnt",
            "photograph, reconstruction, then 10, 25, 40, 55 and 70 years",
            f"after {kimg:.1f} thousand pictures",
            str(grid.relative_to(out)),
        ),
    ]
    introduction = (
        "Every picture here was made on this machine just now: faces found and described, a small model trained for "
        "a few minutes, the portraits rendered at other ages. It shows the way; a good model needs a GPU and hours."
    )
    page = out / "index.html"
    page.write_text(exhibition_page(shown, title="Capricious", introduction=introduction))
    return page


if __name__ == "__main__":
    sys.exit(run_job(WholeWayConfig, main, __doc__))
