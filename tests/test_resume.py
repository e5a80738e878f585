"""Stopping and continuing a run. Tiny networks, random weights, made-up data: wiring."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_tools import tiny_config, train_apart, write_dataset

from capricious.data import storage
from capricious.errors import CapriciousError, ConfigError
from capricious.model.bundle import TRAINING_PICTURES, load_bundle, pictures_file, save_bundle
from capricious.training import checkpoint
from capricious.training.checkpoint_store import CheckpointStore, best, complete, latest
from capricious.training.config import SwapConfig
from capricious.training.loop import Run, train
from capricious.training.networks import new_networks
from capricious.training.score import HELD_OUT_L1
from capricious.training.stopping import Notice
from capricious.training.strategy import Processes, create
from capricious.training.warm_start import warm_start


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


def weights(out):
    """All tensors of the newest checkpoint, optimizers and EMA included."""
    folder = Path(latest(out))
    return {(f.name, k): v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def assert_same_weights(found, expected):
    assert expected.keys() == found.keys() and len(found) > 50
    assert all(torch.equal(expected[k], found[k]) for k in expected)


def test_a_continued_run_equals_an_uninterrupted_one_bit_for_bit(data, tmp_path):
    config = tiny_config(swap=SwapConfig(probability=0.5))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, data=data, out=str(whole))
    stopped = train(replace(config, kimg=0.012), data=data, out=str(parts))
    assert stopped["kimg"] == 0.012
    torch.manual_seed(12345)  # nothing may depend on the global generator
    train(config, data=data, out=str(parts))
    assert_same_weights(weights(parts), weights(whole))
    info = [load_bundle(out / "bundle").info["files"] for out in (whole, parts)]
    assert info[0] == info[1]


def test_a_run_leaves_what_it_promises_and_reports_each_checkpoint(data, tmp_path):
    reports = []
    config = tiny_config(kimg=0.02, checkpoint_kimg=0.008)
    metrics = train(config, data=data, out=str(tmp_path), report=lambda m, folder: reports.append((m, folder)))
    assert metrics["finished"] and metrics["bundle"] == str(tmp_path / "bundle")
    assert [Path(folder).name for _, folder in reports] == [checkpoint.folder_name(n) for n in (8, 16, 20)]
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [checkpoint.folder_name(16), checkpoint.folder_name(20)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["kimg"] for line in lines] == [0.008, 0.016, 0.02]
    assert {"gan", "discriminator", "logits/real", "margin", "images_per_second", "data_wait"} <= lines[0].keys()
    for n in (8, 16, 20):
        assert (tmp_path / "snapshots" / f"{checkpoint.folder_name(n)}.png").is_file()
    beside = load_bundle(tmp_path / "checkpoints" / checkpoint.folder_name(20) / "bundle")
    assert beside.sha256 == load_bundle(tmp_path / "bundle").sha256

    # The same command again has nothing left to do, and weights of this run can begin another.
    again = train(config, data=data, out=str(tmp_path))
    assert again["finished"] and again["kimg"] == 0.02
    assert load_bundle(tmp_path / "bundle").training_pictures.tolist() == [0]  # the first 8 bytes are the same of all


@pytest.mark.parametrize("begin", ["weights", "bundle"])
def test_a_refinement_network_is_trained_kept_and_taken_up_again(begin, data, tmp_path):
    network = replace(tiny_config().network, refinement_width=4)
    swap = SwapConfig(probability=1.0, put_back=True)
    config = tiny_config(kimg=0.008, network=network, swap=swap, lr_generator=1e-3)
    train(config, data=data, out=str(tmp_path))
    bundle = load_bundle(tmp_path / "bundle")
    before = bundle.refinement
    assert before is not None and before.change.weight.abs().max() > 0  # its last layer began at 0
    still = replace(config, warm_start=str(tmp_path / begin), lr_generator=1e-9, kimg=0.004)
    train(still, data=data, out=str(tmp_path / "warm"))
    after = load_bundle(tmp_path / "warm" / "bundle").refinement
    assert after is not None
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=0.02, atol=1e-4)

    # Alone: nothing else of the bundle that it began from changes, and the new one asks for the strength it was taught.
    alone = replace(config, warm_start=str(tmp_path / begin), learns="refinement", swap=replace(swap, strength=1.5))
    train(alone, data=data, out=str(tmp_path / "alone"))
    again = load_bundle(tmp_path / "alone" / "bundle")
    assert again.refinement is not None and again.strength == 1.5 and bundle.strength == 1.0
    assert not torch.equal(again.refinement.change.weight, before.change.weight)
    if begin == "bundle":
        for new, old in ((again.generator, bundle.generator), (again.encoder, bundle.encoder)):
            assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())
    train(replace(config, warm_start=str(tmp_path / "alone" / "weights")), data=data, out=str(tmp_path / "all"))


@pytest.mark.parametrize("begin", ["weights", "bundle"])
def test_a_run_begins_from_weights_or_a_bundle_of_another_and_remembers_their_pictures(begin, data, tmp_path):
    config = tiny_config(kimg=0.008)
    train(config, data=data, out=str(tmp_path))
    (tmp_path / "weights" / TRAINING_PICTURES).write_bytes(pictures_file(np.array([7], np.uint64)))
    before = load_bundle(tmp_path / "bundle")
    save_bundle(tmp_path / "bundle", before.generator, before.encoder, training_pictures=np.array([7], np.uint64))
    still = replace(config, warm_start=str(tmp_path / begin), lr_generator=1e-9, kimg=0.004)  # learns next to nothing
    train(still, data=data, out=str(tmp_path / "warm"))
    after = load_bundle(tmp_path / "warm" / "bundle")
    assert after.training_pictures.tolist() == [0, 7]
    for network in ("generator", "encoder"):
        new, old = (getattr(bundle, network).state_dict() for bundle in (after, before))
        for name, value in old.items():
            if name.endswith("weight"):
                # bfloat16 weights, and a spectral norm that has to be found anew.
                torch.testing.assert_close(new[name], value, rtol=0.05, atol=0.02 * value.abs().max().item())

    message = {"weights": "does not fit the network: .* size mismatch for", "bundle": "Generator has width 4, not 8$"}
    with pytest.raises(CapriciousError, match=message[begin]):
        other = replace(still, network=replace(config.network, width=8))
        train(other, data=data, out=str(tmp_path / "wider"))
    with pytest.raises(CapriciousError, match="generator.safetensors is missing; give the weights folder"):
        train(replace(still, warm_start=str(tmp_path)), data=data, out=str(tmp_path / "nothing"))


def test_another_configuration_or_other_data_is_refused_by_name(data, tmp_path):
    config = tiny_config(kimg=0.004)
    train(config, data=data, out=str(tmp_path / "run"))
    other = replace(config, lr_generator=1e-3, network=replace(config.network, hidden=8))
    with pytest.raises(CapriciousError, match=r"training\.lr_generator was 0\.0001, now 0\.001; training\.network"):
        train(other, data=data, out=str(tmp_path / "run"))
    other_data = write_dataset(tmp_path / "data", count=8, seed=9)
    with pytest.raises(CapriciousError, match="fingerprint"):
        train(config, data=other_data, out=str(tmp_path / "run"))


def test_a_run_goes_on_as_ddp_and_with_fields_that_are_newer_than_it(data, tmp_path):
    config = tiny_config(kimg=0.008)
    train(config, data=data, out=str(tmp_path))
    path = Path(latest(tmp_path)) / checkpoint.STATE_FILE
    state = json.loads(path.read_text())
    del state["config"]["painterly"], state["config"]["swap"]["calibrated"], state["config"]["r1"]
    path.write_text(json.dumps(state))
    with pytest.raises(CapriciousError, match=r"training\.painterly was 0\.0, now 0\.5\. Use"):
        train(replace(config, painterly=0.5), data=data, out=str(tmp_path))
    assert train(replace(config, kimg=0.012, strategy="ddp"), data=data, out=str(tmp_path))["finished"]


def refining(width):
    network = replace(tiny_config().network, refinement_width=width)
    return tiny_config(kimg=0.004, network=network, swap=SwapConfig(probability=1.0, put_back=True))


@pytest.mark.parametrize("begin", ["weights", "bundle"])
def test_a_warm_start_draws_from_the_seed_alone(begin, data, tmp_path):
    config = refining(width=4)
    train(config, data=data, out=str(tmp_path))
    states = []
    for _ in range(2):
        autoencoder, discriminator = new_networks(config)
        torch.rand(1)  # elsewhere in the process
        warm_start(str(tmp_path / begin), autoencoder, discriminator, seed=3)
        states.append(autoencoder.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_bundle_with_another_refinement_network_is_refused_and_one_left_out_is_told(data, tmp_path, caplog):
    train(refining(width=4), data=data, out=str(tmp_path))
    with pytest.raises(CapriciousError, match="its Refinement has width 4, not 8"):
        warm_start(str(tmp_path / "bundle"), *new_networks(refining(width=8)), seed=0)
    warm_start(str(tmp_path / "bundle"), *new_networks(tiny_config()), seed=0)
    assert "refinement network of width 4, which is left out" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["weights", "bundle"])
def test_a_run_begins_from_another_one_in_an_object_store(begin, data, bucket, tmp_path):
    config, first = tiny_config(kimg=0.004), f"{bucket}/{tmp_path.name}"
    train(config, data=data, out=first)
    warm = replace(config, warm_start=f"{first}/{begin}")
    assert train(warm, data=data, out=str(tmp_path))["finished"]
    with pytest.raises(CapriciousError, match="there is no file or folder at s3://"):
        train(replace(warm, warm_start=f"{first}/nothing"), data=data, out=str(tmp_path / "nothing"))


def test_sigterm_ends_in_a_checkpoint_and_a_bundle(data, tmp_path, monkeypatch):
    one_step = Run._one_step

    def killed_in_the_first_step(run, batch):
        if run.state.images_seen == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_step(run, batch)

    monkeypatch.setattr(Run, "_one_step", killed_in_the_first_step)
    metrics = train(tiny_config(kimg=10.0), data=data, out=str(tmp_path))
    assert not metrics["finished"] and metrics["kimg"] == 0.016  # four steps: the processes agree every fourth
    assert Path(latest(tmp_path)).name == checkpoint.folder_name(16)
    assert load_bundle(tmp_path / "bundle").info["training"]["images_seen"] == 16


def test_time_is_up(data, tmp_path):
    metrics = train(tiny_config(kimg=10.0, max_minutes=1e-6), data=data, out=str(tmp_path))
    assert not metrics["finished"] and metrics["kimg"] == 0.016


def test_a_notice_to_save_is_answered_by_one_checkpoint_and_the_run_goes_on(data, tmp_path):
    steps = []

    def from_the_second_look_on():
        steps.append(1)
        return Notice.SAVE if len(steps) > 1 else Notice.NONE

    metrics = train(tiny_config(kimg=0.072), data=data, out=str(tmp_path), notices=from_the_second_look_on)
    assert metrics["finished"] and len(steps) == 4
    assert [Path(c).name for c in complete(tmp_path)] == [checkpoint.folder_name(32), checkpoint.folder_name(72)]


def store(out, **changes):
    values = {"keep": 2, "best_by": None, "best_is": "lowest", **changes}
    return CheckpointStore(str(out), Processes("cpu", joined=False), **values)


def write_checkpoint(shelf, images_seen, **scores):
    state = {"images_seen": images_seen, "scores": scores}
    return shelf.write(images_seen, lambda folder: (folder / "weights").write_bytes(b"w"), state)


@pytest.fixture(params=["local", "s3"])
def out(request, tmp_path):
    """A folder for a run, on a disk and in an object store."""
    return str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_half_written_checkpoints_are_never_found_and_swept_away(out):
    storage.write_atomic(storage.join(out, "checkpoints", checkpoint.folder_name(4), "weights"), b"killed here")
    assert latest(out) is None
    shelf = store(out)
    shelf.require_shared()
    places = [write_checkpoint(shelf, n) for n in (8, 16, 24)]
    assert complete(out) == places[1:] and latest(out) == places[2]
    names = {uri.rsplit("/", 2)[-2] for uri in storage.list_files(out)}
    assert names == {checkpoint.folder_name(16), checkpoint.folder_name(24)}
    with shelf.opened(places[2]) as folder:
        assert (folder / "weights").read_bytes() == b"w"


def test_a_failed_checkpoint_leaves_the_one_before(out):
    shelf = store(out)
    first = write_checkpoint(shelf, 8)

    def disk_full(folder):
        (folder / "weights").write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        shelf.write(16, disk_full, {})
    assert latest(out) == first


@pytest.mark.parametrize(("best_is", "winner"), [("lowest", 16), ("highest", 8)])
def test_the_best_checkpoint_outlives_the_newest(tmp_path, best_is, winner):
    shelf = store(tmp_path, best_by="held_out/l1", best_is=best_is)
    for images_seen, score in ((8, 9.0), (16, 2.0), (24, 3.0), (32, 2.0), (40, 5.0)):
        write_checkpoint(shelf, images_seen, **{"held_out/l1": score})
    assert [Path(c).name for c in complete(tmp_path)] == [checkpoint.folder_name(n) for n in (winner, 32, 40)]
    assert Path(best(tmp_path, "held_out/l1", best_is)).name == checkpoint.folder_name(winner)


def test_a_run_keeps_the_checkpoint_that_a_scorer_likes_best(data, tmp_path):
    scores = iter([3.0, 1.0, 2.0, 4.0])
    config = tiny_config(kimg=0.032, checkpoint_kimg=0.008, best_by="taste")

    class Taste:
        names = ("taste",)

        def __call__(self, network):
            return {"taste": next(scores)}

    metrics = train(config, data=data, out=str(tmp_path), scorers=[Taste()])
    assert metrics["taste"] == 4.0
    assert metrics["best_bundle"] == str(tmp_path / "checkpoints" / checkpoint.folder_name(16) / "bundle")
    assert load_bundle(metrics["best_bundle"]).info["scores"] == {"taste": 1.0}
    # Told before the first step, not when the first checkpoint is due.
    with pytest.raises(ConfigError, match="'beauty'.*scored by: nothing"):
        train(tiny_config(kimg=0.004, best_by="beauty"), data=data, out=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_run_that_diverges_ends_with_its_last_good_checkpoint(data, tmp_path):
    config = tiny_config(kimg=0.04, checkpoint_kimg=0.008)
    run = Run(config, create(config), data=[data], out=str(tmp_path))

    def poison(metrics, checkpoint):
        if metrics["kimg"] == 0.016:
            next(run.state.discriminator.module.parameters()).data.fill_(torch.nan)

    good = tmp_path / "checkpoints" / checkpoint.folder_name(16)
    with pytest.raises(CapriciousError, match=re.escape(f"begin anew from {good / 'bundle'} (--training.warm-start)")):
        run.go(0.0, lambda: Notice.NONE, poison)
    run.outputs.close()
    assert latest(tmp_path) == str(good)
    assert all(value.isfinite().all() for value in weights(tmp_path).values())
    assert all(
        load_file(f)[k].isfinite().all() for f in (tmp_path / "weights").glob("*.safetensors") for k in load_file(f)
    )


def test_statistics_are_measured_on_few_pictures_at_once(data, tmp_path, monkeypatch):
    counts = []

    def measured(network, batches):
        counts.append([len(batch.image) for batch, _ in batches])
        return network

    monkeypatch.setattr("capricious.training.outputs.with_own_statistics", measured)
    train(tiny_config(kimg=0.04, batch_size=40, recalibrate_batches=2), data=data, out=str(tmp_path))
    assert counts == [[16] * 5]


@pytest.mark.slow  # six processes start
def test_two_processes_continue_with_what_both_have_measured(data, tmp_path):
    config = tiny_config(strategy="ddp", discriminator_steps="auto", checkpoint_kimg=0.012, kimg=0.024)
    train_apart(tmp_path / "whole", data, config, processes=2)
    for kimg in (0.012, 0.024):
        train_apart(tmp_path / "parts", data, replace(config, kimg=kimg), processes=2)
    whole, parts = (checkpoint.read_state(latest(tmp_path / run / "out"))["pace"] for run in ("whole", "parts"))
    assert whole == parts


def test_held_out_portraits_score_by_themselves(tmp_path):
    data = write_dataset(tmp_path / "data", count=12, held_out=4)
    metrics = train(tiny_config(kimg=0.004, best_by=HELD_OUT_L1), data=data, out=str(tmp_path / "run"))
    assert 0 < metrics[HELD_OUT_L1] < 255
    assert load_bundle(metrics["bundle"]).info["data"]["portraits"] == 8  # the others were never trained on
    # The score of a generator that stays would stay, too: nothing is chosen by it.
    network = replace(tiny_config().network, refinement_width=4)
    swap, begin = SwapConfig(probability=1.0, put_back=True), str(tmp_path / "run" / "bundle")
    config = tiny_config(kimg=0.004, network=network, swap=swap, learns="refinement", warm_start=begin)
    with pytest.raises(ConfigError, match="'held_out/l1'.*scored by: nothing"):
        train(replace(config, best_by=HELD_OUT_L1), data=data, out=str(tmp_path / "alone"))


def test_a_run_in_an_object_store_continues_bit_for_bit(data, bucket, tmp_path):
    config = tiny_config(kimg=0.012)
    train(config, data=data, out=str(tmp_path / "disk"))
    out = f"{bucket}/{tmp_path.name}"
    train(replace(config, kimg=0.004), data=data, out=out)
    metrics = train(config, data=data, out=out)
    assert metrics["bundle"] == f"{out}/bundle"
    storage.download_tree(out, str(tmp_path / "copy"))
    assert_same_weights(weights(tmp_path / "copy"), weights(tmp_path / "disk"))
    assert load_bundle(tmp_path / "copy" / "bundle").sha256 == load_bundle(tmp_path / "disk" / "bundle").sha256
    lines = (tmp_path / "copy" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kimg"] for line in lines] == [0.004, 0.008, 0.012]


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
    checkpoint.write_state(str(tmp_path), {"images_seen": 0})
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**state, "format_version": 99}))
    with pytest.raises(CapriciousError, match="99"):
        checkpoint.read_state(str(tmp_path))
