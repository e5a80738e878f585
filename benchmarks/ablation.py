"""What each part of training does for age control: one small model per row, the same budget for all, then measured.

    python benchmarks/ablation.py --data runs/prepared --out runs/ablation [--kimg 4] [--only concat layered]

Every row changes one thing of the row that it names. All rows see the same pictures in the same order. They are
measured on portraits of the "test" split, by networks that no training saw: faceres for age, gender and identity,
MobileNetV2 for KID; "put back" are the same renders as they are delivered. The first line of the table is the input
itself, returned for every age. The same command resumes: a row with a bundle is not trained again, one with figures is
not measured again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.data.prepared import PreparedDataset
from capricious.data.records import Face, picture_names
from capricious.evaluate.age import age_measures
from capricious.evaluate.distance import kernel_distance
from capricious.evaluate.faceres import FaceEstimates, Faceres
from capricious.evaluate.features import Features
from capricious.evaluate.leakage import flips
from capricious.evaluate.similarity import psnr
from capricious.model.bundle import load_bundle
from capricious.model.losses import LossWeights
from capricious.render.composite import put_back
from capricious.render.renderer import Renderer, fit
from capricious.render.sweep import Variant
from capricious.training.config import NetworkConfig, SwapConfig, TrainingConfig
from capricious.training.loop import train

AGES = (15.0, 25.0, 35.0, 45.0, 55.0, 65.0, 75.0)

Change = Callable[[TrainingConfig], TrainingConfig]


def swap(**values: Any) -> Change:
    return lambda config: replace(config, swap=replace(config.swap, **values))


def loss(**values: Any) -> Change:
    return lambda config: replace(config, loss=replace(config.loss, **values))


def network(**values: Any) -> Change:
    return lambda config: replace(config, network=replace(config.network, **values))


@dataclass(frozen=True)
class Row:
    """One configuration: that of the row `of` with one change."""

    name: str
    of: str | None
    change: Change


ROWS = (
    Row("concat", None, lambda config: config),
    Row("layered", "concat", network(conditioning="layered")),
    Row("+ swap", "layered", swap(probability=2 / 3)),
    Row("+ swap, concat", "concat", swap(probability=2 / 3)),
    Row("+ estimator views", "+ swap", swap(estimator_views=True)),
    Row("+ put back", "+ estimator views", swap(put_back=True)),
    Row("+ adversary", "+ estimator views", loss(adversary=0.1)),
    Row("+ identity features", "+ estimator views", swap(identity_features=1.0)),
    Row("+ projection", "+ estimator views", network(projection=True)),
    Row("+ R1", "+ estimator views", lambda config: replace(config, r1=replace(config.r1, weight=1.0))),
    Row("+ augmented pairs", "+ estimator views", lambda c: replace(c, augment=replace(c.augment, probability=0.3))),
)


def config_of(name: str, base: TrainingConfig) -> TrainingConfig:
    row = next(row for row in ROWS if row.name == name)
    return row.change(base if row.of is None else config_of(row.of, base))


def base_config(options: argparse.Namespace) -> TrainingConfig:
    """The paper's model, small. With a pixel loss: at this size it is worth many pictures to all rows alike."""
    return TrainingConfig(
        resolution=options.resolution,
        network=NetworkConfig(
            width=options.width,
            hidden=32,
            conditioning="concat",
            encoder_width=2 * options.width,
            discriminator_width=2 * options.width,
        ),
        loss=LossWeights(perceptual=options.perceptual),
        pixel=10.0,
        swap=SwapConfig(probability=0.0),
        batch_size=16,
        kimg=options.kimg,
        lr_generator=4e-4,
        lr_discriminator=4e-4,
        betas=(0.0, 0.99),
        ema_kimg=0.5,
        checkpoint_kimg=options.kimg,
        snapshot_kimg=options.kimg,
        channels_last=True,
        device=options.device,
    )


# --- measuring


class Judge:
    """Scores renders of held-out portraits with networks that training has never seen."""

    def __init__(self, data: str, resolution: int, portraits: int):
        dataset = PreparedDataset(data, "test")
        indices = np.linspace(0, len(dataset) - 1, min(portraits, len(dataset))).round().astype(int)
        chosen = [dataset.portrait(int(i)) for i in indices]
        self.names = picture_names(portrait.id for portrait in chosen)
        self.faces: list[Face] = [fit(portrait.decoded(), resolution) for portrait in chosen]
        self._faceres, self._features = Faceres(), Features()
        self._real = np.stack([face.image for face in self.faces])
        self._of_real, self._real_features = self._faceres(self._real), self._features(self._real)

    def renders(self, bundle_folder: Path) -> np.ndarray:
        """Returns P×(1 + A)×R×R×3: each sitter at the own age, then at AGES."""
        bundle = load_bundle(bundle_folder)
        if bundle.training_pictures is not None and np.isin(self.names, bundle.training_pictures).any():
            raise SystemExit(f"{bundle_folder} was trained on some of the portraits that it is to be measured on")
        renderer = Renderer(bundle)
        variants = [Variant("own"), *(Variant(f"age-{age:g}", {"age": age}) for age in AGES)]
        return np.stack([renderer.render(face, variants) for face in self.faces])

    def unchanged(self) -> np.ndarray:
        return np.repeat(self._real[:, None], 1 + len(AGES), axis=1)

    def put_back(self, renders: np.ndarray) -> np.ndarray:
        """Returns the same as they would be delivered: changes, added to the portraits."""
        return np.stack([put_back(f.image, f, r[0], r) for f, r in zip(self.faces, renders, strict=True)])

    def all_figures(self, renders: np.ndarray) -> dict[str, float]:
        delivered = self.figures(self.put_back(renders))
        return self.figures(renders) | {f"{name}, put back": delivered[name] for name in ("slope", "identity")}

    def figures(self, renders: np.ndarray) -> dict[str, float]:
        portraits, pictures = renders.shape[:2]
        flat = renders.reshape(-1, *renders.shape[2:])
        seen = self._faceres(flat)
        swept = FaceEstimates(*(v.reshape(portraits, pictures, *v.shape[1:])[:, 1:] for v in vars(seen).values()))
        age = age_measures(np.array(AGES), swept.age)
        own = np.round(self._of_real.male.astype(np.float64))
        cosine = np.einsum("pad,pd->pa", swept.embedding, self._of_real.embedding)
        features = self._features(flat).reshape(portraits, pictures, -1)
        numbers = np.arange(portraits)
        kid = kernel_distance(
            self._real_features, numbers, features[:, 1:].reshape(portraits * len(AGES), -1), numbers.repeat(len(AGES))
        )
        found = [(real, render[0]) for real, render in zip(self._real, renders, strict=True)]
        same = [psnr(real, render) for real, render in found if not np.array_equal(real, render)]
        return {
            "slope": float(age.slope.mean()),
            "MAE": float(age.mae.mean()),
            "Spearman": float(age.spearman.mean()),
            "monotone": float(age.monotone.mean()),
            "identity": float(cosine.mean()),
            "KID": kid.value,
            "gender flips": float(np.nanmean(flips(own, np.round(swept.male.astype(np.float64))))),
            "PSNR": float(np.mean(same)) if same else float("inf"),
        }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", required=True, help="prepared dataset with splits train and test")
    arguments.add_argument("--out", required=True, type=Path)
    arguments.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    arguments.add_argument("--kimg", type=float, default=4.0)
    arguments.add_argument("--width", type=int, default=8)
    arguments.add_argument("--perceptual", type=float, default=0.0, help="weight; most of the time on a CPU goes to it")
    arguments.add_argument("--resolution", type=int, default=64)
    arguments.add_argument("--portraits", type=int, default=48, help="held-out ones to measure on")
    arguments.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments.add_argument("--train-only", action="store_true", help="measure later")
    options = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folders = {name: options.out / name.replace(" ", "-").replace(",", "").strip("+-") for name in options.only}
    for name, folder in folders.items():
        if images_seen(folder) < round(options.kimg * 1000):
            print(f"training: {name}", flush=True)
            train(config_of(name, base_config(options)), data=options.data, out=str(folder))
    if not options.train_only:
        table(folders, options)


def images_seen(folder: Path) -> int:
    """Returns on how many pictures the bundle of a row was trained, 0 where there is none."""
    path = folder / "bundle" / "bundle.json"
    return int(json.loads(path.read_text())["training"]["images_seen"]) if path.is_file() else 0


def table(folders: dict[str, Path], options: argparse.Namespace) -> None:
    """Prints one line a row."""
    judge = Judge(options.data, options.resolution, options.portraits)
    lines = {"input unchanged": judge.all_figures(judge.unchanged())}
    for name, folder in folders.items():
        stored = folder / f"figures-{options.portraits}-of-{images_seen(folder)}.json"
        if not stored.is_file():
            stored.write_text(json.dumps(judge.all_figures(judge.renders(folder / "bundle"))))
        lines[f"{name} ({images_seen(folder) / 1000:g} kimg)"] = json.loads(stored.read_text())
    names = list(next(iter(lines.values())))
    print(
        f"\n{len(judge.faces)} held-out portraits, {len(AGES)} ages, {options.resolution} px, width {options.width}\n"
    )
    print("| | " + " | ".join(names) + " |\n|---" + "|---:" * len(names) + "|")
    for label, figures in lines.items():
        print(f"| {label} | " + " | ".join(f"{figures[name]:.3g}" for name in names) + " |", flush=True)


if __name__ == "__main__":
    main()
