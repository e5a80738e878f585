"""Pieces that torch.compile fuses compute what is written; recorded steps learn what steps as written learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from training_tools import tiny_config

from capricious.errors import ConfigError
from capricious.model.layers import NormActivation
from capricious.model.spade import SPADE
from capricious.training import augment
from capricious.training.batches import Batch
from capricious.training.compiled import compile_pieces
from capricious.training.config import PairAugmentConfig, R1Config
from capricious.training.judges import Judges
from capricious.training.networks import new_networks
from capricious.training.recorded_step import WARM_UP, RecordedStep, new_step
from capricious.training.strategy import create

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_the_norm_that_is_compiled_is_the_one_that_is_written(monkeypatch):
    x = torch.randn(2, 8, 9, 9).contiguous(memory_format=torch.channels_last).requires_grad_()
    written = NormActivation()(x)
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    compiled = NormActivation()(x)
    assert compiled.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(compiled, written)
    gradients = [torch.autograd.grad((y**3).sum(), x)[0] for y in (written, compiled)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # a C++ compiler runs
def test_a_compiled_layer_computes_what_is_written():
    written = SPADE(8, 4, "batch", embedding=6, activation=True)
    torch.nn.init.normal_(written.affine.weight)
    compiled = SPADE(8, 4, "batch", embedding=6, activation=True)
    compiled.load_state_dict(written.state_dict())
    compile_pieces(compiled)
    assert compiled._compiled_call_impl is not None
    x, embedding = torch.randn(2, 8, 9, 9, requires_grad=True), torch.randn(2, 6)
    labels = torch.nn.functional.one_hot(torch.randint(0, 7, (2, 9, 9)), 7).permute(0, 3, 1, 2).float()
    found = []
    for layer in (written, compiled):
        y = layer(x, layer.modulate(labels), embedding)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(compiled.norm.running_var, written.norm.running_var)


@pytest.mark.parametrize("changes", [{"device": "cpu"}, {"device": "cuda", "strategy": "ddp"}])
def test_recording_is_refused_where_it_cannot_be(changes):
    with pytest.raises(ConfigError, match="cuda_graphs needs"):
        tiny_config(cuda_graphs=True, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_recording_needs_a_gpu():
    with pytest.raises(ConfigError, match="finds none"):
        create(tiny_config(cuda_graphs=True, device="auto"))


def learn(recorded: bool, compiled: bool = False, steps: int = 48) -> tuple[torch.Tensor, list[float], int]:
    """Returns the weights after steps of all kinds, the losses of the discriminator, how many kinds were recorded."""
    config = tiny_config(device="cuda", epsilon=10.0, lr_generator=0.01, lr_discriminator=0.04)
    config = replace(config, augment=PairAugmentConfig(probability=0.3), r1=R1Config(weight=1.0, every=3))
    config = replace(config, cuda_graphs=recorded, compile=compiled)
    spread = create(config)
    players = [
        spread.player(network, rate)
        for network, rate in zip(new_networks(config), (config.lr_generator, config.lr_discriminator), strict=True)
    ]
    step = new_step(config, *players, Judges())
    losses = []
    for i in range(steps):
        for player in players:
            player.scale_rate(min(1.0, (i + 1) / 10))
        drawn = augment.draw(0, 4 * i, 4, latent=8, swap=0.5, gender_swap=0.2).to(spread.processes.device)
        losses.append(step(made_up(i), drawn, augment_probability=0.3)["discriminator"].item())
    weights = torch.cat([p.detach().double().flatten() for player in players for p in player.module.parameters()])
    return weights, losses, len(step._recordings) if isinstance(step, RecordedStep) else 0


def made_up(seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(4, 3, 64, 64, generator=random) * 2 - 1
    label_map = torch.randint(0, 7, (4, 64, 64), generator=random, dtype=torch.uint8)
    inside, attributes = torch.ones(4, 64, 64, dtype=torch.bool), torch.rand(4, 19, generator=random)
    return Batch(*(tensor.cuda() for tensor in (image, label_map, inside, attributes)))


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@needs_cuda
def test_a_recorded_run_learns_what_one_as_written_learns(deterministic):
    written, losses, _ = learn(recorded=False)
    recorded, recorded_losses, recordings = learn(recorded=True)
    assert recordings == 4  # with and without swap, with and without R1
    assert losses[WARM_UP:] == pytest.approx(recorded_losses[WARM_UP:], rel=1e-4)
    torch.testing.assert_close(recorded, written, rtol=1e-4, atol=1e-6)


@needs_cuda
@pytest.mark.slow
def test_compiled_and_recorded_a_run_learns_the_same(deterministic):
    written, losses, _ = learn(recorded=False)
    both, both_losses, _ = learn(recorded=True, compiled=True)
    assert losses == pytest.approx(both_losses, rel=1e-2)
    torch.testing.assert_close(both, written, rtol=1e-2, atol=1e-4)
