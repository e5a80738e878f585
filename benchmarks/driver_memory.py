"""Does the memory of prepare's driver grow with the collection? Peak resident size for repeats of one picture.

    python benchmarks/driver_memory.py --rows 1000 10000 100000

Each row is a link to one picture that is too small to use, so that a hundred thousand take minutes, not hours: they
are listed, planned, read, decoded, rejected, counted and reported like any others.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from capricious.cluster.prepare import PrepareConfig, prepare
from capricious.cluster.session import session
from capricious.faces.image import encode


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(rows: int) -> None:
    """Runs one prepare in this process and prints what it took as JSON."""
    folder = Path(tempfile.mkdtemp(prefix="memory-"))
    try:
        pictures = folder / "pictures"
        pictures.mkdir()
        for number in range(rows):
            first = pictures / f"{number % 10:06d}.png"  # file systems allow some ten thousand links to one file
            if number < 10:
                first.write_bytes(encode(np.full((4, 4, 3), number, np.uint8), "png"))
            else:
                os.link(first, pictures / f"{number:06d}.png")
        with session():
            before = peak_megabytes()
            outcome = prepare(PrepareConfig(source=str(pictures), out=str(folder / "prepared"), workers=2))
            print(json.dumps({"rows": outcome.rejects, "before": before, "after": peak_megabytes()}))
    finally:
        shutil.rmtree(folder)


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    arguments.add_argument("--one", type=int, help="measure so many rows in this process")
    options = arguments.parse_args()
    if options.one:
        measure(options.one)
        return
    print(f"{'rows':>8} {'driver before':>14} {'peak':>9}")
    for rows in options.rows:
        command = [sys.executable, __file__, "--one", str(rows)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(ended.stdout.strip().splitlines()[-1])
        print(f"{found['rows']:8d} {found['before']:11.0f} MB {found['after']:6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
