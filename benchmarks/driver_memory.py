"""Does the memory of prepare's driver grow with the collection? Peak resident size for repeats of one picture.

    python benchmarks/driver_memory.py --rows 1000 10000 100000
    python benchmarks/driver_memory.py --rows 1000 10000 --below s3://bucket/memory

Each row is one of ten pictures that are too small to use, so that a hundred thousand take minutes, not hours: they
are listed, planned, read, decoded, rejected, counted and reported like any others. On a disk they are links; in an
object store each is an object in a folder of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from capricious.cluster.prepare import PrepareConfig, prepare
from capricious.cluster.session import session
from capricious.data import storage
from capricious.faces.image import encode

TINY = [encode(np.full((4, 4, 3), number, np.uint8), "png") for number in range(10)]


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def link_pictures(folder: Path, rows: int) -> None:
    folder.mkdir()
    for number in range(rows):
        first = folder / f"{number % 10:06d}.png"  # file systems allow some ten thousand links to one file
        if number < 10:
            first.write_bytes(TINY[number])
        else:
            os.link(first, folder / f"{number:06d}.png")


def store_pictures(uri: str, rows: int) -> None:
    store, path = storage.locate(uri)
    for start in range(0, rows, 1000):
        numbers = range(start, min(start + 1000, rows))
        store.pipe({f"{path}/{number:06d}/front.png": TINY[number % 10] for number in numbers})


def measure(rows: int, below: str) -> None:
    """Runs one prepare in this process and prints what it took as JSON."""
    with session():
        before = peak_megabytes()
        outcome = prepare(PrepareConfig(source=f"{below}/pictures", out=f"{below}/prepared", workers=2))
        print(json.dumps({"rows": outcome.rejects, "before": before, "after": peak_megabytes()}))


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    arguments.add_argument("--below", default="", help="s3:// address for pictures and outputs; by default a folder")
    arguments.add_argument("--one", type=int, help="measure so many rows in this process")
    options = arguments.parse_args()
    if options.one:
        measure(options.one, options.below)
        return
    print(f"{'rows':>8} {'driver before':>14} {'peak':>9}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="memory-") as folder:
            below = f"{options.below}/{rows}" if options.below else folder
            if options.below:
                store_pictures(f"{below}/pictures", rows)
            else:
                link_pictures(Path(folder, "pictures"), rows)
            command = [sys.executable, __file__, "--one", str(rows), "--below", below]
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(ended.stdout.strip().splitlines()[-1])
            print(f"{found['rows']:8d} {found['before']:11.0f} MB {found['after']:6.0f} MB", flush=True)
            if options.below:
                storage.remove_folder(below)


if __name__ == "__main__":
    main()
