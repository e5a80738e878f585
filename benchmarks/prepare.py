"""How fast is prepare: images per second by stage and end to end, against its limit and against a plain loop.

    python benchmarks/prepare.py --source photos/ --limit 2000

The limit is the time that the models alone take, shared by the workers. The plain loop is the paper's way: one
picture after the other through dlib's detector and landmarks, the teacher parser at 512 px, age and gender.
"""

import shutil
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.cluster.plan import BatchConfig
from capricious.cluster.prepare import PrepareConfig, prepare
from capricious.cluster.session import session
from capricious.data.prepared import read_receipts
from capricious.errors import Rejection
from capricious.faces.image import decode, encode

MODELS = ("detect", "landmarks", "parse", "attributes")
OTHER = ("read", "decode", "align", "encode")
PAPER = AnnotatorConfig(detector="dlib", landmarks="dlib", parser="bisenet")


def plain_loop(source: str, pictures: int, folder: Path) -> float:
    """Returns the seconds a picture takes in the plain loop (median over pictures, models loaded before)."""
    annotator = Annotator(PAPER)
    seconds = []
    config = BatchConfig(source=source, out=str(folder), limit=pictures)
    for number, listed in enumerate(config.sources()):
        started = time.perf_counter()
        try:
            for face in annotator.annotate(decode(listed.read(), name=listed.uri), listed.labels):
                (folder / f"{number}.png").write_bytes(encode(face.image, "png"))
                (folder / f"{number}-labels.png").write_bytes(encode(face.label_map, "png"))
        except Rejection:
            continue  # HOG finds fewer faces: only pictures that go all the way count
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--source", required=True)
    arguments.add_argument("--limit", type=int, default=2000)
    arguments.add_argument("--plain", type=int, default=40, help="pictures for the plain loop, half before, half after")
    arguments.add_argument("--workers", type=int, default=2)
    options = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        before = plain_loop(options.source, options.plain // 2, folder)
        config = PrepareConfig(
            source=options.source, out=str(folder / "prepared"), limit=options.limit, workers=options.workers
        )
        with session():
            started = time.perf_counter()
            outcome = prepare(config)
            wall = time.perf_counter() - started
        after = plain_loop(options.source, options.plain // 2, folder)
        receipts = read_receipts(config.out)
        report(outcome.pictures, wall, receipts, options.workers, (before + after) / 2)
    finally:
        shutil.rmtree(folder)


def report(pictures: int, wall: float, receipts: dict, workers: int, plain: float) -> None:
    seconds: Counter[str] = Counter()
    for receipt in receipts.values():
        seconds.update(receipt["seconds"])
    print(f"{pictures} pictures, {workers} workers\n")
    print(f"{'stage':<12} {'ms a picture':>12} {'images/s':>9}")
    for name in (*OTHER, *MODELS):
        each = seconds[name] / pictures
        print(f"{name:<12} {1000 * each:12.2f} {1 / each if each else float('inf'):9.1f}")
    models = sum(seconds[name] for name in MODELS)
    limit = pictures * workers / models
    shards = pictures * workers / seconds["shard"]
    end_to_end = pictures / wall
    print(f"\n{'':<44} {'images/s':>9} {'of limit':>9} {'× plain':>8}")
    for name, rate in (
        ("limit: the models alone", limit),
        ("workers, from first to last picture of a shard", shards),
        ("end to end, with start-up, manifest and report", end_to_end),
        ("plain loop, teacher parser, one picture at a time", 1 / plain),
    ):
        print(f"{name:<50} {rate:7.2f} {rate / limit:9.0%} {rate * plain:8.1f}")


if __name__ == "__main__":
    sys.exit(main())
