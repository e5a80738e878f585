"""How many workers a job starts: on this machine, on a cluster whose pools are empty, and on one that grows."""

import pytest
import ray

from capricious.cluster import session
from capricious.cluster.render_config import RenderConfig
from capricious.cluster.session import require, worker_count
from capricious.cluster.torch_workers import run_torch_workers
from capricious.cluster.train import TrainConfig, run_training
from capricious.errors import CapriciousError
from jobs.render import needs


@pytest.fixture
def there(monkeypatch):
    """Makes Ray a cluster that has what a test wants."""

    def have(own_machine=False, **resources):
        monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
        monkeypatch.setattr(session, "_is_this_machines_own", lambda: own_machine)

    return have


def test_one_worker_for_each_cpu_or_gpu_unless_a_number_is_given(there, capsys):
    there(CPU=16.0, GPU=4.0)
    assert worker_count(0, "render") == 16
    assert worker_count(0, "render", gpus=True) == 4
    assert worker_count(3, "render", gpus=True) == 3
    there(CPU=2.0, GPU=4.0)
    assert worker_count(0, "render", gpus=True) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("resources", "gpus", "lacking"), [({}, False, "CPU"), ({"CPU": 8.0}, True, "GPU")])
def test_an_empty_cluster_is_asked_for_a_number(there, resources, gpus, lacking):
    there(**resources)
    with pytest.raises(CapriciousError, match=f"no {lacking}s now.*--labellers"):
        worker_count(0, "render", gpus=gpus, flag="--labellers")


def test_a_cluster_may_grow_and_this_machine_does_not(there, capsys):
    there()
    assert worker_count(64, "prepare") == 64
    told = "prepare with 64 workers needs 64 CPUs, the cluster has 0: those without wait"
    assert capsys.readouterr().err.startswith(told)
    there(CPU=16.0)
    require({"CPU": 8, "GPU": 2}, "training")
    assert "training needs 2 GPUs, the cluster has 0" in capsys.readouterr().err
    there(own_machine=True, CPU=2.0)
    with pytest.raises(CapriciousError, match="4 workers needs 4 CPUs, this machine has 2; lower"):
        worker_count(4, "prepare")


@pytest.mark.parametrize(("device", "workers", "gpus"), [("cpu", 4, 0), ("cuda", 4, 4), ("cuda", 0, 1)])
def test_the_preflight_of_a_render_looks_for_its_gpus(device, workers, gpus):
    assert needs(RenderConfig(source="in", out="out", device=device, workers=workers)).gpus == gpus


def test_training_on_an_empty_cluster_asks_for_its_cpus(there, monkeypatch, tmp_path):
    there()
    monkeypatch.setattr("capricious.cluster.train.JoinedDatasets", lambda *_: None)
    with pytest.raises(CapriciousError, match="no CPUs now.*--cpus-per-worker"):
        run_training(TrainConfig(data=("d",), out=str(tmp_path), loading="worker"))


def test_training_needs_its_gpus(there):
    there(own_machine=True, CPU=64.0)
    with pytest.raises(CapriciousError, match="2 workers of 6 CPUs needs 2 GPUs, this machine has 0"):
        run_torch_workers(lambda settings: None, {}, out="", workers=2, cpus=6, gpus=True, max_failures=0)
