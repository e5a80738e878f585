"""Stopping and continuing a run. Tiny networks, random weights, made-up data: wiring."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_tools import tiny_config, write_dataset

from capricious.errors import CapriciousError
from capricious.model.bundle import load_bundle
from capricious.training import checkpoint
from capricious.training.config import SwapConfig
from capricious.training.loop import Run, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


def weights(out):
    """All tensors of the newest checkpoint, optimizers and EMA included."""
    folder = checkpoint.latest(out)
    return {(f.name, k): v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def test_a_continued_run_equals_an_uninterrupted_one_bit_for_bit(data, tmp_path):
    config = tiny_config(swap=SwapConfig(probability=0.5))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, data=data, out=str(whole))
    stopped = train(replace(config, kimg=0.012), data=data, out=str(parts))
    assert stopped["kimg"] == 0.012
    torch.manual_seed(12345)  # nothing may depend on the global generator
    train(config, data=data, out=str(parts))
    expected, found = weights(whole), weights(parts)
    assert expected.keys() == found.keys() and len(found) > 50
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    info = [load_bundle(out / "bundle").info["files"] for out in (whole, parts)]
    assert info[0] == info[1]


def test_a_run_leaves_what_it_promises_and_reports_each_checkpoint(data, tmp_path):
    reports = []
    config = tiny_config(kimg=0.02, checkpoint_kimg=0.008)
    metrics = train(config, data=data, out=str(tmp_path), report=lambda m, folder: reports.append((m, folder)))
    assert metrics["finished"] and metrics["bundle"] == str(tmp_path / "bundle")
    assert [folder.name for _, folder in reports] == [checkpoint.folder_name(n) for n in (8, 16, 20)]
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [checkpoint.folder_name(16), checkpoint.folder_name(20)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["kimg"] for line in lines] == [0.008, 0.016, 0.02]
    assert {"gan", "discriminator", "logits/real", "images_per_second"} <= lines[0].keys()
    assert (tmp_path / "snapshots" / f"{checkpoint.folder_name(20)}.png").is_file()

    # The same command again has nothing left to do, and weights of this run can begin another.
    again = train(config, data=data, out=str(tmp_path))
    assert again["finished"] and again["kimg"] == 0.02
    warm = replace(config, warm_start=str(tmp_path / "weights"), kimg=0.004)
    spread_run = train(warm, data=data, out=str(tmp_path / "warm"))
    assert spread_run["finished"]


def test_another_configuration_or_other_data_is_refused_by_name(data, tmp_path):
    config = tiny_config(kimg=0.004)
    train(config, data=data, out=str(tmp_path / "run"))
    other = replace(config, lr_generator=1e-3, network=replace(config.network, hidden=8))
    with pytest.raises(CapriciousError, match=r"training\.lr_generator was 0\.0001, now 0\.001; training\.network"):
        train(other, data=data, out=str(tmp_path / "run"))
    other_data = write_dataset(tmp_path / "data", count=8, seed=9)
    with pytest.raises(CapriciousError, match="fingerprint"):
        train(config, data=other_data, out=str(tmp_path / "run"))


def test_sigterm_ends_in_a_checkpoint_and_a_bundle(data, tmp_path, monkeypatch):
    one_step = Run._one_step

    def killed_in_the_first_step(run, batch):
        if run.images_seen == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_step(run, batch)

    monkeypatch.setattr(Run, "_one_step", killed_in_the_first_step)
    metrics = train(tiny_config(kimg=10.0), data=data, out=str(tmp_path))
    assert not metrics["finished"] and metrics["kimg"] == 0.016  # four steps: the processes agree every fourth
    assert checkpoint.latest(tmp_path).name == checkpoint.folder_name(16)
    assert load_bundle(tmp_path / "bundle").info["training"]["images_seen"] == 16


def test_time_is_up(data, tmp_path):
    metrics = train(tiny_config(kimg=10.0, max_minutes=1e-6), data=data, out=str(tmp_path))
    assert not metrics["finished"] and metrics["kimg"] == 0.016


def test_half_written_checkpoints_are_never_found_and_swept_away(tmp_path):
    checkpoint.begin(tmp_path, 100)
    assert checkpoint.latest(tmp_path) is None
    for images_seen in (8, 16, 24):
        final = checkpoint.commit(checkpoint.begin(tmp_path, images_seen), keep=2)
    assert checkpoint.latest(tmp_path) == final
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == [checkpoint.folder_name(16), checkpoint.folder_name(24)]


@pytest.mark.parametrize("channels_last", [False, True])
def test_optimizers_survive_the_round_trip(tmp_path, channels_last):
    def network():
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 4, 3)
        return conv.to(memory_format=torch.channels_last) if channels_last else conv

    def step(net, optimizer):
        optimizer.zero_grad()
        net(torch.ones(1, 3, 5, 5)).square().sum().backward()
        optimizer.step()

    first, second = network(), network()
    optimizers = [torch.optim.Adam(n.parameters(), 1e-2, (0.5, 0.9)) for n in (first, second)]
    for _ in range(3):
        step(first, optimizers[0])
    checkpoint.save_module(first, tmp_path / "net.safetensors")
    checkpoint.save_optimizer(optimizers[0], tmp_path / "adam.safetensors")
    checkpoint.load_module(second, tmp_path / "net.safetensors")
    checkpoint.load_optimizer(optimizers[1], tmp_path / "adam.safetensors")
    for net, optimizer in zip((first, second), optimizers, strict=True):
        step(net, optimizer)
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


def test_an_old_checkpoint_format_is_refused(tmp_path):
    checkpoint.write_state(tmp_path, {"images_seen": 0})
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**state, "format_version": 99}))
    with pytest.raises(CapriciousError, match="99"):
        checkpoint.read_state(tmp_path)
