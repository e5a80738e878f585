"""Jobs under power cuts and pulled cables, on a cluster whose nodes have networks of their own: nothing is lost.

Bundles have random weights and trained networks are tiny: survival is tested. Needs root and iproute2.
"""

import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cluster_tools import finished, machines, start_training, wait_for, worker_of
from serve_tools import random_bundle
from skimage.data import astronaut
from training_tools import write_dataset

from capricious.cluster.ledger import done_shards
from capricious.cluster.plan import PLAN, read_plan
from capricious.faces.image import encode

pytestmark = pytest.mark.slow

PORTRAITS = 40


@pytest.fixture(scope="module")
def museum(tmp_path_factory):
    folder = tmp_path_factory.mktemp("museum")
    (folder / "portraits").mkdir()
    for number in range(PORTRAITS):
        picture = encode(np.roll(astronaut(), number, 1), "jpeg")
        (folder / "portraits" / f"{number}.jpg").write_bytes(picture)
    random_bundle(folder / "bundle")
    return folder


def test_a_power_cut_in_prepare(two_nodes, museum, tmp_path):
    out = tmp_path / "prepared"
    (tmp_path / "mixed").mkdir()
    for picture in (museum / "portraits").iterdir():
        (tmp_path / "mixed" / picture.name).symlink_to(picture)
    (tmp_path / "mixed" / "letter.jpg").write_bytes(b"Dear museum")
    arguments = ["--source", str(tmp_path / "mixed"), "--out", str(out), "--workers", "2", "--shard-size", "2"]
    job = two_nodes.start_job("prepare.py", *arguments, "--annotator.resolution", "64")
    wait_for(two_nodes, job, lambda: len(list((out / "portraits").glob("*.parquet"))) >= 2)
    two_nodes.kill(worker_of(two_nodes, "ray::MapWorker"))
    finished(job, 3)
    told = Counter(Path(uri).name for table in ("portraits", "rejects") for uri in _uris(out / table))
    assert told == Counter(path.name for path in (tmp_path / "mixed").iterdir())
    assert not list(out.rglob("*.partial"))


def _uris(table: Path) -> list[str]:
    rows = [row for part in table.glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    return [row.get("source_uri") or row["uri"] for row in rows]


def start_render(cluster, museum: Path, out: Path) -> subprocess.Popen:
    arguments = ["--source", f"{museum}/portraits", "--bundle", f"{museum}/bundle", "--out", str(out)]
    return cluster.start_job("render.py", *arguments, "--ages", "20,70", "--shard-size", "2", "--workers", "2")


def some_done(out: Path) -> bool:
    return (out / PLAN).exists() and len(done_shards(read_plan(str(out)))) >= 2


def assert_whole(cluster, out: Path) -> None:
    printed = finished(cluster.start_job("verify.py", "--out", str(out), "--workers", "1"), 0)
    assert f"{4 * PORTRAITS} ok, 0 failed, 0 skipped; 0 problems" in printed, printed
    assert not list(out.rglob("*.partial"))


def test_a_power_cut_in_render(two_nodes, museum, tmp_path):
    out = tmp_path / "sweeps"
    job = start_render(two_nodes, museum, out)
    wait_for(two_nodes, job, lambda: some_done(out))
    two_nodes.kill(worker_of(two_nodes, "ray::MapWorker"))
    finished(job, 0)
    assert_whole(two_nodes, out)


def test_a_pulled_cable_in_render(two_nodes, museum, tmp_path):
    """The node goes on working where nobody hears it, and leaves by itself when it learns that it was given up."""
    out = tmp_path / "sweeps"
    job = start_render(two_nodes, museum, out)
    wait_for(two_nodes, job, lambda: some_done(out))
    node = worker_of(two_nodes, "ray::MapWorker")
    node.cut()
    two_nodes.wait(lambda: node.address not in two_nodes.alive(), 180, "the node is not missed")
    node.mend()
    finished(job, 0)
    two_nodes.wait(lambda: not node.pids("raylet/raylet"), 60, "the node does not notice that it was given up")
    two_nodes.kill(node)
    assert_whole(two_nodes, out)


def test_a_power_cut_in_training(two_nodes, tmp_path):
    data, out = write_dataset(tmp_path / "data", count=12, held_out=4), tmp_path / "run"
    job = start_training(two_nodes, data, out, kimg=0.2, checkpoint_kimg=0.02)
    wait_for(two_nodes, job, lambda: len(list(out.glob("checkpoints/*/state.json"))) >= 2)
    two_nodes.kill(worker_of(two_nodes, "RayTrainWorker"))
    two_nodes.add(1)
    printed = finished(job, 0)
    assert "0.2 kimg, trained" in printed and "continuing" in (out / "metrics.jsonl").read_text() + printed
    assert (out / "bundle").is_dir()


def test_the_head_is_lost_under_a_render(museum, tmp_path):
    """The job ends with it. On a new cluster the same command does what is left, and nothing twice that was done."""
    out = tmp_path / "sweeps"
    with machines((1, 1)) as cluster:
        job = start_render(cluster, museum, out)
        wait_for(cluster, job, lambda: some_done(out))
        cluster.head.kill()
        job.wait(30)
        for node in list(cluster.nodes):
            cluster.kill(node)
        before = {file: file.stat().st_mtime_ns for file in (out / "ledger").glob("*.parquet")}
        assert before
        cluster.start_head()
        cluster.add(1)
        cluster.add(1)
        finished(start_render(cluster, museum, out), 0)
        assert {file: file.stat().st_mtime_ns for file in before} == before
        assert_whole(cluster, out)
