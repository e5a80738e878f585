"""Training on a cluster that changes with notice: a node that will be taken back, a worker told to stop, fewer workers.

Networks are tiny and have random weights: survival is tested. Needs root and iproute2.
"""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from cluster_tools import Machines, finished, start_training, wait_for, worker_of
from safetensors.torch import load_file
from training_tools import write_dataset

pytestmark = pytest.mark.slow

WORKER = "RayTrainWorker"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), count=12)


def checkpoints(out: Path) -> list[int]:
    """Images seen by each whole checkpoint."""
    return sorted(json.loads(file.read_text())["images_seen"] for file in out.glob("checkpoints/*/state.json"))


def progress(out: Path) -> list[dict]:
    file = out / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def workers(cluster: Machines) -> int:
    return sum(len(node.pids(WORKER)) for node in cluster.nodes)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "bundle" / "generator.safetensors")


def test_a_node_that_will_be_taken_back(two_nodes, data, tmp_path):
    """Its notice makes a checkpoint, from which the run goes on elsewhere; that is no failure."""
    out = tmp_path / "run"
    two_nodes.add(1)
    options = ("--max-failures", "0", "--training.log-every", "5")
    job = start_training(two_nodes, data, out, *options, kimg=1.6, checkpoint_kimg=100)
    wait_for(two_nodes, job, lambda: len(progress(out)) >= 2)
    node = worker_of(two_nodes, WORKER)
    two_nodes.drain(node, 30)
    wait_for(two_nodes, job, lambda: bool(checkpoints(out)))
    (saved,) = checkpoints(out)
    assert 0 < saved < 1600
    two_nodes.kill(node)
    printed = finished(job, 0)
    assert "1.6 kimg, trained" in printed
    lines = progress(out)
    # Another process counts its minutes from 0 again; what the one before had done beyond the checkpoint is forgotten.
    anew = next(i for i in range(1, len(lines)) if lines[i]["minutes"] < lines[i - 1]["minutes"])
    assert round(lines[anew - 1]["kimg"] * 1000) <= saved < round(lines[anew]["kimg"] * 1000) <= saved + 20
    assert checkpoints(out) == [saved, 1600] and (out / "bundle").is_dir()


def test_a_worker_is_told_to_stop(two_nodes, data, tmp_path):
    """All workers stop in good order; the same command ends with the weights of a run that nobody disturbed."""
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "run"
    how = {"kimg": 0.6, "checkpoint_kimg": 100}
    options = ("--training.log-every", "5")
    finished(start_training(two_nodes, data, undisturbed, *options, **how), 0)
    job = start_training(two_nodes, data, out, *options, **how)
    wait_for(two_nodes, job, lambda: len(progress(out)) >= 2)
    os.kill(worker_of(two_nodes, WORKER).pids(WORKER)[0], signal.SIGTERM)
    printed = finished(job, 0)
    assert "stopped; the same command continues" in printed
    assert 0 < checkpoints(out)[-1] < 600 and (out / "bundle").is_dir()
    finished(start_training(two_nodes, data, out, *options, **how), 0)
    expected, found = weights(undisturbed), weights(out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_fewer_workers_and_more_again(two_nodes, data, tmp_path):
    """With --min-workers a run goes on with the nodes that are left, and takes up one that comes later."""
    out = tmp_path / "run"
    options = ("--min-workers", "1", "--training.log-every", "5")
    job = start_training(two_nodes, data, out, *options, kimg=20, checkpoint_kimg=0.04)
    wait_for(two_nodes, job, lambda: workers(two_nodes) == 2 and len(checkpoints(out)) >= 1)
    two_nodes.kill(worker_of(two_nodes, WORKER))
    wait_for(two_nodes, job, lambda: workers(two_nodes) == 0)
    left = checkpoints(out)[-1]
    wait_for(two_nodes, job, lambda: workers(two_nodes) == 1 and checkpoints(out)[-1] > left)
    two_nodes.add(1)
    wait_for(two_nodes, job, lambda: workers(two_nodes) == 2)
    left = checkpoints(out)[-1]
    wait_for(two_nodes, job, lambda: checkpoints(out)[-1] > left)
    os.kill(worker_of(two_nodes, WORKER).pids(WORKER)[0], signal.SIGTERM)
    assert "stopped; the same command continues" in finished(job, 0)
