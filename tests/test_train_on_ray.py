"""Training through Ray Train and Ray Data. Tiny networks, random weights, made-up data: wiring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_tools import SIZE, tiny_config, write_dataset

from capricious.cluster.decoding import Share
from capricious.cluster.train import TrainConfig, run_training
from capricious.errors import ConfigError
from capricious.training.batches import BatchSource, PortraitStream, as_batch
from capricious.training.checkpoint_store import latest
from capricious.training.datasets import JoinedDatasets


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return write_dataset(folder / "a", count=6), write_dataset(folder / "b", count=5, seed=1)


def test_ray_data_decodes_what_a_worker_would_have_decoded(data):
    """Bit for bit, for every worker, over the end of an epoch (11 portraits, batches of 6)."""
    dataset = JoinedDatasets(data, "train")
    stream = PortraitStream(dataset, resolution=SIZE, seed=3)
    for rank in range(2):
        source = BatchSource(dataset, resolution=SIZE, batch_size=6, seed=3, rank=rank, world_size=2)
        rows = list(Share(12, 6, rank, 2).decode({"id": np.arange(3)}, stream))
        for step, row in enumerate(rows):
            expected = source.batch(12 + 6 * step)
            found = as_batch(*(torch.from_numpy(row[name]) for name in ("image", "label_map", "inside", "attributes")))
            assert row["position"].tolist() == [12 + 6 * step + 3 * rank + i for i in range(3)]
            for name in ("image", "label_map", "inside", "attributes"):
                assert torch.equal(getattr(found, name), getattr(expected, name))


def weights(out) -> dict[str, torch.Tensor]:
    return load_file(Path(latest(out)) / "autoencoder.safetensors")


@pytest.mark.slow
def test_two_workers_fed_by_ray_data_learn_the_same_also_when_they_continue(ray_cluster, data, tmp_path):
    training = tiny_config(strategy="ddp", kimg=0.024, log_every=1)
    config = TrainConfig(data, str(tmp_path / "worker"), workers=2, cpus_per_worker=1, training=training)
    assert run_training(replace(config, loading="worker"))["finished"]
    fed = replace(config, out=str(tmp_path / "ray"), loading="ray", decoders=1)
    first = run_training(replace(fed, training=replace(training, kimg=0.012)))
    assert first["kimg"] == 0.012
    assert run_training(fed)["finished"]
    expected, found = weights(tmp_path / "worker"), weights(tmp_path / "ray")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_cannot_be_spread_is_refused(data, tmp_path):
    ddp, out = tiny_config(strategy="ddp", batch_size=12), str(tmp_path)
    TrainConfig(data, out, workers=4, min_workers=1, training=ddp)
    for wrong, reason in (
        ({"workers": 2, "training": tiny_config()}, "strategy ddp or deepspeed"),
        ({"workers": 5, "training": ddp}, "multiple of every number of workers that may come up, but 5 "),
        ({"workers": 8, "min_workers": 4, "training": ddp}, "but 5, 7, 8 do not divide"),
        ({"training": tiny_config(device="cuda")}, "device cuda needs --gpus"),
        ({"gpus": True, "training": tiny_config(device="cpu")}, "unused"),
        ({"workers": 2, "min_workers": 3, "training": ddp}, "min_workers must be in 1…2, found: 3"),
        ({"workers": 2, "min_workers": 1, "training": replace(ddp, strategy="deepspeed")}, "as many processes as"),
    ):
        with pytest.raises(ConfigError, match=reason):
            TrainConfig(data, out, **wrong)
