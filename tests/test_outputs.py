"""What is released and what is told: batch-norm statistics, TensorBoard, Prometheus."""

from __future__ import annotations

import struct
import urllib.request
from dataclasses import replace

import pytest
import torch
from conftest import free_ports
from tensorboardX.proto.event_pb2 import Event
from torch import nn
from training_tools import NETWORK, SIZE, tiny_config, write_dataset

from capricious.errors import ConfigError
from capricious.training import augment, observers
from capricious.training.batches import BatchSource
from capricious.training.datasets import JoinedDatasets
from capricious.training.export import with_own_statistics
from capricious.training.networks import new_networks

METRICS = {"kimg": 0.5, "images_per_second": 12.5, "data_wait": 0.25, "logits/real": -1.5}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    data = write_dataset(tmp_path_factory.mktemp("data") / "a")
    return BatchSource(JoinedDatasets([data], "train"), resolution=SIZE, batch_size=4, seed=0)


def batches(source, count):
    for k in range(count):
        yield source.batch(4 * k), augment.draw(0, 4 * k, 4, latent=NETWORK.latent)


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_batch_norm_gets_the_mean_statistics_of_the_batches(source):
    """The first norm sees the same for any weights of later layers: its input can be had by hand."""
    network, _ = new_networks(tiny_config())
    network.eval().requires_grad_(False)
    with torch.no_grad():
        for norm in norms(network):  # those of a network far away
            norm.running_mean.fill_(3.0)
            norm.running_var.fill_(7.0)
    seen = []
    hook = norms(network)[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    calibrated = with_own_statistics(network, batches(source, 2))
    hook.remove()
    first = norms(calibrated)[0]
    inputs = seen[-4:] or None
    assert inputs is not None and len(inputs) == 4  # two batches, each at own and at requested ages
    torch.testing.assert_close(first.running_mean, torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0))
    assert not any(module.training for module in calibrated.modules())
    assert all(norm.running_mean.eq(3.0).all() for norm in norms(network))  # the original stays as it was


def test_nothing_but_batch_norm_changes(source):
    network, _ = new_networks(tiny_config())
    network.eval().requires_grad_(False)
    before, after = network.state_dict(), with_own_statistics(network, batches(source, 1)).state_dict()
    changed = {name.rsplit(".", 1)[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    config = tiny_config(network=replace(NETWORK, norm="instance"))
    network, _ = new_networks(config)
    network.eval()
    after = with_own_statistics(network, batches(source, 1)).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in network.state_dict().items())


def events(folder):
    """Reads event files: length (8 bytes), its checksum (4), content, its checksum (4)."""
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            yield Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length


def test_tensorboard_finds_all_metrics_at_the_number_of_images(tmp_path):
    observers.tensorboard(tmp_path, images_seen=0)(METRICS)
    found = {(v.tag, e.step): v.simple_value for e in events(tmp_path) for v in e.summary.value}
    assert found == {
        ("training/kimg", 500): 0.5,
        ("training/images_per_second", 500): 12.5,
        ("training/data_wait", 500): 0.25,
        ("logits/real", 500): -1.5,
    }


def test_prometheus_serves_the_newest_metrics_on_the_port_that_is_asked_for():
    (port,) = free_ports(1)
    endpoint = observers.prometheus(port, "runs/first")
    try:
        endpoint(METRICS)
        endpoint({**METRICS, "kimg": 1.0})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        assert 'capricious_training_images{run="runs/first"} 1000.0' in lines
        assert 'capricious_training_logits{name="real",run="runs/first"} -1.5' in lines
        with pytest.raises(ConfigError, match=f"prometheus_port {port}: .*choose another port"):
            observers.prometheus(port, "runs/second")
    finally:
        endpoint.close()
    assert observers.prometheus(None, "runs/first") is None
