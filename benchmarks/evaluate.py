"""The judge judged: faceres on real faces, distances against references, and what measuring a picture costs.

    python benchmarks/evaluate.py --prepared PHOTOGRAPHS PAINTINGS [--faces 600] [--rounds 30]

Takes prepared datasets with labelled ages. Prints Markdown.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.annotate.crop_reader import CropReader
from capricious.data.prepared import PreparedDataset
from capricious.data.records import Portrait
from capricious.evaluate.age import estimator_error
from capricious.evaluate.distance import frechet_distance, kernel_distance
from capricious.evaluate.dlib_embedding import DlibEmbedding
from capricious.evaluate.faceres import Faceres
from capricious.evaluate.features import Features
from capricious.evaluate.identity import threshold_at
from capricious.evaluate.similarity import ssim
from capricious.evaluate.subjects import decade_name
from capricious.faces.align import to_crop
from capricious.model.perceptual import PerceptualLoss


def table(heads: list[str], rows: list[list[object]]) -> None:
    print("|", " | ".join(heads), "|\n|" + "---|" * len(heads))
    for row in rows:
        print("|", " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row), "|")
    print()


def labelled(path: str, count: int) -> list[Portrait]:
    """Returns portraits whose age is a label, spread evenly over the dataset."""
    dataset = PreparedDataset(path, None)
    portraits = [dataset.portrait(i) for i in range(len(dataset))]
    known = [p for p in portraits if p.attribute_source["age"] == "label"]
    return [known[i * len(known) // min(count, len(known))] for i in range(min(count, len(known)))]


def resized(images: np.ndarray, size: int) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.LANCZOS)) for i in images])


def error_row(name: str, age: np.ndarray, estimated: np.ndarray, male: np.ndarray, right: np.ndarray) -> list[object]:
    found = estimator_error(age, estimated)
    mae, bias, slope = found["mae"], found["bias"], found["slope"]
    known = ~np.isnan(male)
    gender = f"{right[known].mean():.1%} of {known.sum()}" if known.any() else "–"
    return [
        name,
        len(age),
        f"{mae.value:.1f} ({mae.low:.1f} … {mae.high:.1f})",
        f"{bias.value:+.1f}",
        f"{slope.value:.2f}",
        gender,
    ]


def judge(paths: list[str], count: int) -> None:
    heads = ["faces", "n", "age error, years (95 %)", "bias", "slope", "gender right"]
    estimator = Faceres()
    for path in paths:
        portraits = labelled(path, count)
        age = np.array([p.attributes.age for p in portraits])
        is_label = np.array([p.attribute_source["gender"] == "label" for p in portraits])
        male = np.array([np.nan if p.attributes.gender is None else p.attributes.gender for p in portraits], float)
        male[~is_label] = np.nan
        images = np.stack([p.decoded().image for p in portraits])
        rows = []
        for size in dict.fromkeys((images.shape[1], 64)):
            found = estimator(images if size == images.shape[1] else resized(images, size))
            right = (found.male > 0.5) == (male > 0.5)
            groups = {f"all, {size} px": np.ones(len(age), bool)}
            if size == images.shape[1]:
                threshold, pairs = threshold_at(found.embedding)
                groups.update({"women": male < 0.5, "men": male > 0.5})
                groups.update({decade_name(d): np.minimum(age // 10, 10) == d for d in range(11)})
            rows += [
                error_row(name, age[g], found.age[g], male[g], right[g]) for name, g in groups.items() if g.sum() > 4
            ]
        print(f"## faceres on {Path(path).name}: {len(age)} real faces of known age\n")
        table(heads, rows)
        print(f"Cosine that 0.1 % of {pairs} pairs of two faces exceed: {threshold:.3f}\n")


def distances(paths: list[str], count: int) -> None:
    images = np.concatenate([np.stack([p.decoded().image for p in labelled(path, count)]) for path in paths])
    features = Features()(images).astype(np.float64)
    half = len(features) // 2
    order = np.random.default_rng(0).permutation(len(features))
    x, y = features[order[:half]], features[order[half : 2 * half]]
    blurred = Features()(resized(resized(images[order[half : 2 * half]], 32), images.shape[1])).astype(np.float64)
    at = np.arange(half)
    rows = []
    for name, other in (("two halves of the real faces", y), ("… one of them through 32 px", blurred)):
        kid = kernel_distance(x, at, other, half + at)
        reference = poly_mmd(torch.from_numpy(x), torch.from_numpy(other)).item()
        moments = [torch.from_numpy(m) for f in (x, other) for m in (f.mean(0), np.cov(f, rowvar=False))]
        ours, theirs = frechet_distance(x, other), _compute_fid(*moments).item()
        interval = f"{1000 * kid.low:.2f} … {1000 * kid.high:.2f}"
        rows.append(
            [name, half, f"{1000 * kid.value:.3f}", interval, f"{1000 * reference:.3f}", f"{ours:.4f}", f"{theirs:.4f}"]
        )
    print("## Distances on mobilenetv2 features, beside torchmetrics on the same features\n")
    table(["sets", "n each", "KID × 1000", "95 %", "torchmetrics", "Fréchet", "torchmetrics"], rows)


def milliseconds(path: str, rounds: int) -> None:
    """Medians of interleaved calls, one thread each, on crops of one sitter."""
    torch.set_num_threads(1)
    portrait = labelled(path, 1)[0]
    face = portrait.decoded()
    image = face.image
    points = to_crop(face.landmarks, face.quad, image.shape[0])
    faceres, features, dlib, reader, perceptual = Faceres(), Features(), DlibEmbedding(), CropReader(), PerceptualLoss()
    batch = np.repeat(image[None], 8, 0)
    tensor = torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "faceres": (lambda: faceres(batch), 8),
        "mobilenetv2 features": (lambda: features(batch), 8),
        "dlib embedding": (lambda: dlib(batch[:1], points), 1),
        "label map read from a picture": (lambda: reader(image), 1),
        "perceptual distance": (lambda: perceptual.loss(tensor, tensor), 1),
        "SSIM": (lambda: ssim(image, image), 1),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, (call, pictures) in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - start) / pictures)
    print(f"## Milliseconds a picture of {image.shape[0]} px, one thread: best and median of {rounds}\n")
    table(["", "best", "median"], [[name, min(values), statistics.median(values)] for name, values in times.items()])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--prepared", nargs="+", required=True)
    arguments.add_argument("--faces", type=int, default=600)
    arguments.add_argument("--rounds", type=int, default=30)
    given = arguments.parse_args()
    judge(given.prepared, given.faces)
    distances(given.prepared[:1], given.faces)
    milliseconds(given.prepared[0], given.rounds)


if __name__ == "__main__":
    main()
