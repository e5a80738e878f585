"""How fast is render: from a collection to its files, against the network alone, and does its cost stay the same?

    python benchmarks/render.py --source photos/ --prepared prepared/ --bundles capricious://default --pictures 100 1000
    python benchmarks/render.py --source photos/ --prepared prepared/ --widths 16 32

For each width a bundle of random weights is made: only time is measured. The raw rate is that of Renderer.render_all
in as many processes as there are workers, each with one thread, at the same time: sweeps a second of faces that lie in
memory. The job reads, decodes, takes the annotations from the prepared dataset, renders, puts every variant back into
its picture, makes sheet and animation, encodes, hashes and writes.
"""

import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from itertools import islice
from pathlib import Path

import torch

from capricious.cluster.ledger import part_uri
from capricious.cluster.plan import Plan, read_plan
from capricious.cluster.render import asked, render
from capricious.cluster.render_config import RenderConfig
from capricious.cluster.render_shard import RenderShard
from capricious.cluster.session import session
from capricious.data.prepared import PreparedDataset
from capricious.model.bundle import load_bundle, save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig
from capricious.render.picture import FACES
from capricious.render.renderer import Renderer
from capricious.render.sweep import Sweep


def make_bundle(width: int, folder: Path) -> str:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=width))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_bundle(folder, generator, StyleEncoder(EncoderConfig(width=width)))
    return str(folder)


def raw(bundle: str, options: Namespace, start, found) -> None:
    """Renders sweeps of prepared faces for a while and tells how many a second."""
    renderer = Renderer(load_bundle(bundle), threads=1)
    dataset = PreparedDataset(options.prepared, None)
    faces = [dataset.portrait(i).decoded() for i in range(32)]
    variants = Sweep.parse(options.ages).variants()
    renderer.render_all(faces[:FACES], variants)
    start.wait()
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < options.seconds:
        at = FACES * rounds % len(faces)
        renderer.render_all(faces[at : at + FACES], variants)
        rounds += 1
    found.put(rounds * FACES / (time.perf_counter() - started))


def raw_rate(bundle: str, options: Namespace) -> float:
    """Returns the sweeps a second of all processes together."""
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(options.workers), context.Queue()
    processes = [context.Process(target=raw, args=(bundle, options, start, found)) for _ in range(options.workers)]
    for process in processes:
        process.start()
    rates = [found.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(rates)


def network_share(bundle: str, options: Namespace) -> float:
    """Returns which share of a worker's CPU seconds the network takes; other processes do not disturb this number."""
    torch.set_num_threads(1)
    folder = tempfile.mkdtemp(prefix="render-")
    config = RenderConfig(
        source=options.source, bundle=bundle, prepared=options.prepared, out=folder, ages=options.ages, rights="any"
    )
    try:
        sources = list(islice(config.sources(), 24))
        worker = RenderShard(config, Plan(folder, {**asked(config), "rights_stated": 0}))
        render_all, seconds = worker.renderer.render_all, []

        def timed(*arguments):
            started = time.process_time()
            made = render_all(*arguments)
            seconds.append(time.process_time() - started)
            return made

        worker.renderer.render_all = timed
        worker.run_shard(0, sources[:FACES])
        seconds.clear()
        started = time.process_time()
        worker.run_shard(1, sources)
        return sum(seconds) / (time.process_time() - started)
    finally:
        shutil.rmtree(folder)


def peak_megabytes() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def one(options: Namespace) -> None:
    """Runs one job in this process and prints what it took as JSON."""
    folder = Path(tempfile.mkdtemp(prefix="render-"))
    try:
        config = RenderConfig(
            source=options.source,
            bundle=options.bundle,
            prepared=options.prepared,
            out=str(folder),
            ages=options.ages,
            rights="any",
            limit=options.one,
            workers=options.workers,
        )
        with session():
            before = peak_megabytes()
            started = time.time()
            outcome = render(config)
            wall = time.time() - started
        plan = read_plan(str(folder))
        ends = sorted(Path(part_uri(plan.out, shard)).stat().st_mtime for shard in range(plan.shards))
        # The first shard of each worker waits for actors and bundle; then there is work for all of them until the first
        # finds none. Shards are long and may end side by side: portraits are counted one by one.
        began, over = ends[options.workers - 1], ends[-options.workers]
        made = [portrait.stat().st_mtime for portrait in (folder / "portraits").iterdir()]
        found = {
            "rendered": outcome.rendered,
            "failed": outcome.pictures - outcome.rendered,
            "wall": wall,
            "rate": sum(began < at <= over for at in made) / (over - began),
            "before": before,
            "peak": peak_megabytes(),
        }
        print(json.dumps(found))
    finally:
        shutil.rmtree(folder)


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--source", required=True)
    arguments.add_argument("--prepared", required=True)
    arguments.add_argument("--ages", default="10:80:10")
    arguments.add_argument("--widths", type=int, nargs="*", default=[])
    arguments.add_argument("--bundles", nargs="*", default=[])
    arguments.add_argument("--pictures", type=int, nargs="+", default=[100])
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--seconds", type=float, default=15.0, help="of each measurement of the raw rate")
    arguments.add_argument("--one", type=int, help="render so many pictures in this process")
    arguments.add_argument("--bundle", help="with --one: the bundle")
    options = arguments.parse_args()
    if options.one:
        one(options)
        return
    print(f"{options.workers} workers, ages {options.ages}; portraits a second")
    columns = f"{'bundle':>20} {'pictures':>9} {'raw':>7} {'job':>7} {'of raw':>7} {'in all':>8}"
    print(f"{columns} {'driver before':>14} {'peak':>8}")
    for bundle in options.bundles:
        measure(bundle, bundle, options)
    for width in options.widths:
        with tempfile.TemporaryDirectory() as folder:
            measure(f"width {width}", make_bundle(width, Path(folder) / "random"), options)


def measure(label: str, bundle: str, options: Namespace) -> None:
    """Prints the table of one bundle."""
    command = [sys.executable, *sys.argv, "--bundle", bundle, "--one"]
    print(f"{label:>20} {24:9d} one process, seconds of CPU: {network_share(bundle, options):.0%} in the network")
    rates = [raw_rate(bundle, options)]
    for pictures in options.pictures:
        ended = subprocess.run([*command, str(pictures)], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(ended.stdout.strip().splitlines()[-1])
        rates.append(raw_rate(bundle, options))  # before and after each job: a noisy machine disturbs both
        network = statistics.mean(rates[-2:])
        print(
            f"{label:>20} {pictures:9d} {network:7.2f} {found['rate']:7.2f} {found['rate'] / network:7.0%} "
            f"{found['wall']:6.0f} s {found['before']:11.0f} MB {found['peak']:5.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
