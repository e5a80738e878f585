"""Kill render at random moments, run it again, and count: is every row of the plan in exactly one verified file?

    python benchmarks/kill_render.py --source photos/ --prepared prepared/ --portraits 250 --kills 10

A portrait has four rows: two ages, sheet and animation. The bundle has random weights: only survival is tested. Each
time one of three is killed with SIGKILL, in turn: an actor that renders, any other worker process of Ray, the driver. A
driver that is gone is started again by the same command. At the end jobs/verify.py hashes every file anew, and the
ledger is compared with that of a run that nobody disturbed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import ray
import torch
from killing import add_arguments, disturb

from capricious.cluster.ledger import portraits
from capricious.cluster.plan import PLAN, read_plan
from capricious.cluster.session import PATIENCE
from capricious.model.bundle import save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig

JOBS = Path(__file__).resolve().parents[1] / "jobs"


def make_bundle(folder: Path) -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=64, width=2, hidden=4))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_bundle(folder, generator, StyleEncoder(EncoderConfig(resolution=64, width=2)))


def start(options, bundle: Path, out: Path, log) -> subprocess.Popen:
    command = [sys.executable, str(JOBS / "render.py"), "--source", options.source, "--prepared", options.prepared]
    command += ["--bundle", str(bundle), "--out", str(out), "--limit", str(options.portraits), "--ages", "20,70"]
    command += ["--rights", "any", "--workers", str(options.workers), "--shard-size", str(options.shard_size)]
    return subprocess.Popen(command, stdout=log, stderr=log)


class Witness:
    """Notes at each kill which shards were finished and which were under way."""

    def __init__(self, out: Path):
        self.out = out
        self.finished: dict[Path, int] = {}
        self.under_way: list[int] = []

    def look(self) -> None:
        if not (self.out / PLAN).exists():
            self.under_way.append(0)
            return
        parts = {path: path.stat().st_mtime_ns for path in (self.out / "ledger").glob("*.parquet")}
        for path, written in self.finished.items():
            assert parts.get(path) == written, f"{path} was finished and has been done again"
        self.finished = parts
        plan = read_plan(str(self.out))
        numbers = [int(path.stem.rpartition("-")[2]) for path in parts]
        done = {rows[0]["file"].rpartition("/")[0] for rows in portraits(str(self.out), numbers) if rows[0]["file"]}
        begun = {f"portraits/{path.name}" for path in (self.out / "portraits").glob("*")}
        self.under_way.append(len(begun - done))
        print(f"  {len(parts)} of {plan.shards} shards finished, {len(begun - done)} portraits begun beyond them")


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--source", required=True)
    arguments.add_argument("--prepared", required=True)
    arguments.add_argument("--portraits", type=int, default=250)
    arguments.add_argument("--shard-size", type=int, default=8)
    add_arguments(arguments, shortest=5.0, longest=15.0)
    options = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    bundle, calm, out = folder / "bundle", folder / "calm", folder / "disturbed"
    try:
        make_bundle(bundle)
        # One Ray for all drivers, as on a cluster: a driver that is killed leaves it running.
        os.environ.update(PATIENCE)
        ray.init(address="local", num_cpus=options.workers, include_dashboard=False, log_to_driver=False)
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        with open(folder / "log", "w") as log:
            started = time.monotonic()
            start(options, bundle, calm, log).wait()
            print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
            witness, started = Witness(out), time.monotonic()
            again = lambda: start(options, bundle, out, log)  # noqa: E731
            killed = disturb(options, again, (out / "report.json").exists, witness.look)
            print(f"disturbed: {time.monotonic() - started:.0f} s, killed: {dict(killed)}")
            witness.look()
        print(f"portraits done again after a kill: {witness.under_way[:-1]}; shards of {options.shard_size}")
        plans = [read_plan(str(each)) for each in (calm, out)]
        ledgers = [[row for rows in portraits(plan.out, plan.shards) for row in rows] for plan in plans]
        for row in (row for ledger in ledgers for row in ledger):
            row["attempts"] = None
        print(f"{len(ledgers[1])} rows, same ids and same hashes as undisturbed: {ledgers[0] == ledgers[1]}")
        print(f"half-written files left: {len(list(out.rglob('*.partial')))}", flush=True)
        code = subprocess.run([sys.executable, str(JOBS / "verify.py"), "--out", str(out)]).returncode
        print(f"jobs/verify.py ended with exit code {code}")
    finally:
        ray.shutdown()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
