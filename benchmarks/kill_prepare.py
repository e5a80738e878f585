"""Kill prepare at random moments, run it again, and count: is every input exactly once in the output?

    python benchmarks/kill_prepare.py --source photos/ --limit 2000 --kills 10

Each time one of three is killed with SIGKILL, in turn: the driver, an actor that annotates, any other worker process
of Ray. A driver that is gone is started again by the same command. At the end the output is compared, byte for byte,
with that of a run that nobody disturbed.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from killing import add_arguments, disturb

JOB = Path(__file__).resolve().parents[1] / "jobs" / "prepare.py"


def start(options, out: Path, log) -> subprocess.Popen:
    command = [sys.executable, str(JOB), "--source", options.source, "--out", str(out), "--limit", str(options.limit)]
    return subprocess.Popen([*command, "--workers", str(options.workers)], stdout=log, stderr=log)


def check(out: Path) -> tuple[int, str]:
    """Returns the number of inputs and a hash of all portraits and rejects; fails on a missing or doubled input."""
    inputs = Counter(row["uri"] for part in sorted((out / "plan").glob("*")) for row in pq.read_table(part).to_pylist())
    portraits, rejects, digest = Counter(), Counter(), hashlib.sha256()
    for table in ("portraits", "rejects"):
        for part in sorted((out / table).iterdir()):
            digest.update(part.read_bytes())
            for row in pq.read_table(part).to_pylist():
                if table == "portraits":
                    portraits[row["source_uri"], row["face"]] += 1
                else:
                    rejects[row["uri"]] += 1
    answered = {uri for uri, _ in portraits}
    assert set(inputs) == answered | set(rejects), "an input is missing"
    assert not answered & set(rejects), "an input is in both tables"
    assert max((portraits | rejects).values()) == 1, "a row is there twice"
    assert not list(out.rglob("*.partial")), "something half written is left"
    return len(inputs), digest.hexdigest()


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--source", required=True)
    arguments.add_argument("--limit", type=int, default=2000)
    add_arguments(arguments, shortest=20.0, longest=45.0)
    options = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    try:
        with open(folder / "log", "w") as log:
            started = time.monotonic()
            start(options, folder / "calm", log).wait()
            print(f"undisturbed: {time.monotonic() - started:.0f} s")
            started = time.monotonic()
            out = folder / "disturbed"
            killed = disturb(options, lambda: start(options, out, log), (out / "_manifest.json").exists)
            print(f"disturbed: {time.monotonic() - started:.0f} s, killed: {dict(killed)}")
        inputs, calm = check(folder / "calm")
        again, disturbed = check(folder / "disturbed")
        print(f"{inputs} and {again} inputs, each exactly once; same bytes: {calm == disturbed}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
