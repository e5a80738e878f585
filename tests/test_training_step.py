"""The training step and its parts. Networks are tiny with random weights: wiring and arithmetic, not quality."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import normalize
from training_tools import NO_WEIGHTS, SIZE, Brightness, Listed, made_up_portraits, tiny_config

from capricious.errors import CapriciousError, ConfigError
from capricious.faces import image as image_io
from capricious.faces.attributes import Attributes
from capricious.training import augment
from capricious.training.augment import AGE
from capricious.training.balance import balanced_weights
from capricious.training.batches import BatchSource, Order
from capricious.training.config import NetworkConfig, PairAugmentConfig, R1Config, SwapConfig, TrainingConfig
from capricious.training.ema import Ema
from capricious.training.judges import Judges
from capricious.training.networks import new_networks
from capricious.training.pace import Pace
from capricious.training.sitters import Sitters, identity_loss
from capricious.training.step import GanStep, frozen
from capricious.training.strategy import create

AGE_ALONE = replace(NO_WEIGHTS, gan=0.1, age=20.0)


def source(**changes):
    values = {"resolution": SIZE, "batch_size": 4, "seed": 3, **changes}
    return BatchSource(Listed(made_up_portraits(10)), **values)


def game(config):
    """A GanStep on tiny networks, with the stand-in estimator."""
    spread = create(config)
    autoencoder, discriminator = new_networks(config)
    players = spread.player(autoencoder, config.lr_generator), spread.player(discriminator, config.lr_discriminator)
    return GanStep(config, *players, Judges(estimators=(Brightness(),)))


def draws(config, images_seen=0, **changes):
    drawn = augment.draw(config.seed, images_seen, config.batch_size, latent=config.network.latent, swap=1.0)
    return replace(drawn, **changes)


# --- order and batches


@given(
    size=st.integers(1, 40),
    position=st.integers(0, 200),
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    weighted=st.booleans(),
)
def test_any_stretch_of_the_order_equals_its_pieces(size, position, counts, weighted):
    weights = np.arange(1.0, size + 1) if weighted else None
    whole = Order(size, 1, weights).indices(position, sum(counts))
    pieces, at = [], position
    for count in counts:
        pieces.append(Order(size, 1, weights).indices(at, count))
        at += count
    assert np.array_equal(whole, np.concatenate(pieces))


def test_each_epoch_shows_every_portrait_once_and_in_another_order():
    order = Order(30, seed=5)
    first, second = order.indices(0, 30), order.indices(30, 30)
    assert sorted(first) == sorted(second) == list(range(30))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Order(30, seed=6).indices(0, 30))


def test_balanced_weights_level_the_decades_up_to_the_limit():
    sitters = [Attributes(age=25.0)] * 80 + [Attributes(age=35.0)] * 20 + [Attributes(age=95.0)]
    weights = balanced_weights(sitters, "age", limit=8.0)
    assert weights[0] * 80 == pytest.approx(weights[80] * 20)
    assert weights[100] == 8.0  # and not 80
    assert balanced_weights(sitters, "none") is None


def test_balanced_weights_level_the_genders_of_each_decade():
    groups = {(25.0, 0.0): 8, (25.0, 1.0): 2, (65.0, 1.0): 4, (65.0, None): 1, (None, 0.0): 1}
    sitters = [Attributes(age=age, gender=gender) for (age, gender), n in groups.items() for _ in range(n)]
    weights = balanced_weights(sitters, "age-gender")
    shown, start = [], 0
    for n in groups.values():
        shown.append(weights[start : start + n].sum())
        start += n
    assert shown == pytest.approx([8.0] * len(groups))


def test_balanced_order_draws_by_weight():
    weights = np.array([1.0, 3.0])
    drawn = Order(2, 0, weights).indices(0, 8000)
    assert np.mean(drawn == 1) == pytest.approx(0.75, abs=0.02)


def test_batches_hold_the_pixels_and_labels_of_the_portraits():
    batch = source().take(np.array([7, 2]))
    portrait = made_up_portraits(10)[7]
    pixels = image_io.decode(portrait.image, name="7")
    assert torch.allclose((batch.image[0].permute(1, 2, 0) + 1) * 127.5, torch.from_numpy(pixels).float(), atol=1e-4)
    assert batch.label_map.dtype == torch.uint8
    assert torch.equal(batch.attributes[0], torch.from_numpy(portrait.attributes.vector()))


def test_a_crop_knows_where_it_leaves_its_picture():
    portrait = made_up_portraits(1)[0]
    half = SIZE / 2
    quad = np.float32([[-half, 0], [-half, SIZE], [half, SIZE], [half, 0]])  # its left half lies beyond the edge
    beyond = replace(portrait, quad=quad, source_size=(SIZE, SIZE), inside_score=0.5)
    batch = BatchSource(Listed([portrait, beyond]), resolution=SIZE, batch_size=2, seed=0).take(np.array([0, 1]))
    assert batch.inside[0].all()
    assert not batch.inside[1, :, : SIZE // 2].any() and batch.inside[1, :, SIZE // 2 :].all()


def test_ranks_share_the_global_batch():
    whole = source().batch(12)
    halves = [source(rank=rank, world_size=2).batch(12) for rank in (0, 1)]
    assert torch.equal(whole.image, torch.cat([h.image for h in halves]))


def test_batches_decoded_on_the_fly_are_the_same_and_resume_anywhere():
    kept, fly = source().batches(0), source(memory_budget=0).batches(0)
    shown = [(next(kept), next(fly)) for _ in range(6)]
    assert all(torch.equal(a.image, b.image) and torch.equal(a.label_map, b.label_map) for a, b in shown)
    resumed = source(memory_budget=0).batches(5 * 4)
    assert torch.equal(next(resumed).image, shown[5][0].image)


def test_a_broken_label_map_names_its_portrait():
    portraits = made_up_portraits(3)
    portraits[1] = replace(portraits[1], label_map=portraits[1].image)
    with pytest.raises(CapriciousError, match=portraits[1].id):
        BatchSource(Listed(portraits), resolution=SIZE, batch_size=2, seed=0)


def test_data_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="prepared at 64"):
        source(resolution=128)
    with pytest.raises(ConfigError, match="multiple of the 3"):
        source(world_size=3)


# --- randomness


def test_draws_follow_from_seed_and_position_alone():
    def numbers(seed, seen):
        drawn = augment.draw(seed, seen, 6, latent=8, swap=0.5)
        return torch.cat([drawn.noise.flatten(), drawn.age, drawn.flip.float()])

    assert torch.equal(numbers(1, 64), numbers(1, 64))
    assert not torch.equal(numbers(1, 64), numbers(1, 70))
    assert not torch.equal(numbers(1, 64), numbers(2, 64))


def test_parts_of_the_draws_make_up_the_whole():
    drawn = augment.draw(0, 0, 6, latent=8)
    parts = [drawn.part(rank, 3) for rank in range(3)]
    assert torch.equal(drawn.noise, torch.cat([p.noise for p in parts]))
    assert all(p.swap == drawn.swap for p in parts)


def test_draws_keep_their_probabilities():
    drawn = augment.draw(0, 0, 20000, latent=1, flip=0.5, dropout=0.1, ages=(10.0, 80.0), gender_swap=0.25)
    assert drawn.flip.float().mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.dropped.float().mean() == pytest.approx(0.1, abs=0.01)
    assert drawn.flip_gender.float().mean() == pytest.approx(0.25, abs=0.02)
    decades = torch.histc(drawn.age, bins=7, min=10.0, max=80.0) / 20000
    assert torch.allclose(decades, torch.full((7,), 1 / 7), atol=0.01)
    swaps = [augment.draw(0, seen, 1, latent=1, swap=2 / 3).swap for seen in range(600)]
    assert np.mean(swaps) == pytest.approx(2 / 3, abs=0.06)


def test_dropped_attributes_are_unknown():
    sitter = Attributes(age=40.0, gender=1.0, glasses="reading", smile=0.5, emotion=(0.5, 0.5, *[0.0] * 6))
    vectors = torch.from_numpy(np.stack([sitter.vector()] * 5))
    hidden = augment.drop_attributes(vectors, torch.eye(5, dtype=torch.bool))
    for row, name in zip(hidden, ("age", "gender", "glasses", "smile", "emotion"), strict=True):
        assert Attributes.from_vector(row.numpy()) == replace(
            Attributes.from_vector(vectors[0].numpy()), **{name: None}
        )


def test_requests_ask_for_the_drawn_age_and_leave_unknown_gender_unknown():
    vectors = torch.from_numpy(np.stack([Attributes(age=20.0, gender=1.0).vector(), Attributes().vector()]))
    drawn = replace(
        augment.draw(0, 0, 2, latent=1), age=torch.tensor([70.0, 30.0]), flip_gender=torch.tensor([True, True])
    )
    first, second = (Attributes.from_vector(v.numpy()) for v in augment.request(vectors, drawn))
    assert (round(first.age), first.gender) == (70, 0.0)
    assert (round(second.age), second.gender) == (30, None)


def test_pictures_and_label_maps_are_mirrored_alike():
    picture = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    mirrored = augment.mirror(picture, torch.tensor([True, False]))
    assert torch.equal(mirrored[0], picture[0].flip(-1)) and torch.equal(mirrored[1], picture[1])
    labels = picture[:, 0].to(torch.uint8)
    assert torch.equal(augment.mirror(labels, torch.tensor([True, False])), mirrored[:, 0].to(torch.uint8))


# --- EMA and pace


def test_ema_halves_the_past_in_its_half_life():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = Ema(network, half_life=100)
    nn.init.ones_(network.weight)
    for step in range(10):
        ema.update(network, images_seen=10**6 + 10 * step, batch_size=10)
    assert ema.network.weight.item() == pytest.approx(0.5, abs=1e-5)


def test_ema_forgets_the_start_sooner():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = Ema(network, half_life=10000, ramp_up=0.1)
    nn.init.ones_(network.weight)
    ema.update(network, images_seen=1000, batch_size=100)
    assert ema.network.weight.item() == pytest.approx(0.5)  # half-life 100 so far


def test_ema_copies_buffers():
    network = nn.BatchNorm1d(2)
    ema = Ema(network, half_life=100)
    network(torch.randn(8, 2))
    ema.update(network, 8, 8)
    assert torch.equal(ema.network.running_mean, network.running_mean)


def test_pace_doubles_while_the_discriminator_is_behind():
    pace = Pace(tiny_config())
    assert pace.steps == 1
    for margin, steps in ((0.5, 1), (0.1, 2), (0.5, 2), (0.7, 1)):
        pace.decide(margin, 0.0, images=4)
        assert pace.steps == steps, margin
    fixed = Pace(tiny_config(discriminator_steps=3))
    fixed.decide(0.0, 0.0, images=4)
    assert fixed.steps == 3


def test_pace_averages_over_about_fifty_steps():
    pace = Pace(tiny_config(augment=PairAugmentConfig(target=0.5)))
    for _ in range(50):
        pace.observe({name: torch.tensor(0.0) for name in ("logits/real", "logits/fake", "logits/real_sign")})
    assert pace.measured.tolist() == pytest.approx([0.98**50, 0.5 * 0.98**50])


def test_augmentation_follows_how_sure_the_discriminator_is():
    pace = Pace(tiny_config(augment=PairAugmentConfig(probability="auto", target=0.6, kimg=1.0)))
    probabilities = []
    for sign in (0.9, 0.9, 0.3, 0.3, 0.3):
        pace.decide(1.0, sign, images=250)
        probabilities.append(pace.augment)
    assert probabilities == pytest.approx([0.25, 0.5, 0.25, 0.0, 0.0])
    for _ in range(5):
        pace.decide(1.0, 0.9, images=250)
    assert pace.augment == 1.0
    resumed = Pace(tiny_config(augment=PairAugmentConfig(probability="auto")))
    resumed.restore(pace.state())
    assert resumed.augment == 1.0 and torch.equal(resumed.measured, pace.measured)
    fixed = Pace(tiny_config(augment=PairAugmentConfig(probability=0.3)))
    fixed.decide(1.0, 0.9, images=250)
    assert fixed.augment == 0.3


# --- the step


def test_generator_runs_once_and_discriminator_is_frozen_in_its_step():
    config = tiny_config()
    step = game(config)
    generator, discriminator = step.autoencoder.module.generator, step.discriminator.module
    seen = SimpleNamespace(forwards=0, frozen=[])
    generator.register_forward_hook(lambda *_: setattr(seen, "forwards", seen.forwards + 1))
    discriminator.register_forward_hook(
        lambda *_: seen.frozen.append(not any(p.requires_grad for p in discriminator.parameters()))
    )
    before = {k: v.clone() for k, v in discriminator.named_parameters()}
    grads = {}
    update = step.autoencoder.update

    def watched(loss):
        weights = {k: v.clone() for k, v in discriminator.named_parameters()}
        discriminator.zero_grad()
        update(loss)
        grads.update({k: v.grad for k, v in discriminator.named_parameters()})
        assert all(torch.equal(v, weights[k]) for k, v in discriminator.named_parameters())

    step.autoencoder.update = watched
    step(source().batch(0), draws(config, swap=False))
    assert seen.forwards == 1
    assert seen.frozen == [False, True, True]  # its own update; then fakes, and real pictures without a gradient
    assert all(grad is None for grad in grads.values())
    assert all(p.requires_grad for p in discriminator.parameters())
    assert any(not torch.equal(v, before[k]) for k, v in discriminator.named_parameters())


def test_discriminator_update_leaves_the_generator_alone():
    config = tiny_config()
    step = game(config)
    step.autoencoder.update = lambda loss: None
    step(source().batch(0), draws(config))
    assert all(p.grad is None for p in step.autoencoder.module.parameters())


def test_swap_pass_reuses_the_modulations():
    config = tiny_config()
    step = game(config)
    generator = step.autoencoder.module.generator
    calls = []
    modulations, synthesize = generator.modulations, generator.synthesize
    generator.modulations = lambda *a: (calls.append("modulations"), modulations(*a))[1]
    generator.synthesize = lambda *a: (calls.append("synthesize"), synthesize(*a))[1]
    step(source().batch(0), draws(config))
    assert calls == ["modulations", "synthesize", "synthesize"]


@pytest.mark.parametrize("swap", [False, True])
def test_every_loss_is_reported_by_name_with_its_share(swap):
    config = tiny_config(loss=replace(NO_WEIGHTS, age=1.0, gender=1.0, adversary=0.1), r1=R1Config(weight=1.0))
    log = game(config)(source().batch(0), draws(config, swap=swap))
    terms = {"gan", "feature_matching", "kl", "pixel", "adversary"}
    terms |= {"age", "gender", "identity", "latent"} if swap else set()
    of_discriminator = {"discriminator", "r1", "logits/real", "logits/fake", "logits/real_sign"}
    assert set(log) == terms | {f"share/{name}" for name in terms} | of_discriminator
    assert all(v.ndim == 0 and not v.requires_grad and v.isfinite() for v in log.values())
    assert sum(log[f"share/{name}"] for name in terms).item() == pytest.approx(1.0)
    assert log["share/pixel"] == 0.0  # its weight
    ratio = log["share/feature_matching"] / log["share/kl"]
    assert ratio.item() == pytest.approx((10 * log["feature_matching"] / (0.05 * log["kl"])).item(), rel=1e-4)


def test_unknown_genders_give_the_estimator_loss_no_gradient():
    config = tiny_config(loss=replace(NO_WEIGHTS, gender=1.0))
    step = game(config)
    image = torch.zeros(2, 3, SIZE, SIZE, requires_grad=True)
    renders = SimpleNamespace(swapped=image, swapped_mean=torch.zeros(2, 8), latent=torch.zeros(2, 8))
    vectors = torch.from_numpy(np.stack([Attributes(gender=0.0).vector(), Attributes().vector()]))
    drawn = augment.draw(0, 0, 2, latent=8)
    sitters = Sitters(torch.zeros(2, 3, SIZE, SIZE), vectors, augment.request(vectors, drawn))
    terms = step._swap_terms(renders, sitters, drawn)
    (gradient,) = torch.autograd.grad(terms["gender"], image)
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() < 1e-9


def test_identity_loss_in_closed_form():
    real, swapped = torch.zeros(3, 3, 8, 8), torch.full((3, 3, 8, 8), 0.5)
    vectors = torch.from_numpy(np.stack([Attributes(age=a).vector() for a in (20.0, 20.0, None)]))
    wanted = torch.from_numpy(np.stack([Attributes(age=a).vector() for a in (20.0, 80.0, 80.0)]))
    sitters = Sitters(real, vectors, wanted)
    loss = identity_loss(swapped, sitters, half_at_years=30.0)
    assert loss.item() == pytest.approx(0.5 * (1 + 1 / 3 + 1 / 2) / 3)
    checkerboard = torch.zeros(8, 8)
    checkerboard[::2, ::2] = checkerboard[1::2, 1::2] = 1.0
    fine = (checkerboard - 0.5).expand(3, 3, 8, 8)  # detail without low frequencies costs nothing
    assert identity_loss(fine, sitters, 30.0).item() == pytest.approx(0.0, abs=1e-6)


class Place(nn.Module):
    """Stands in for the recognizer: who somebody is, is how red the upper half is, and how red the lower."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return normalize(torch.stack([image[:, 0, :32].mean((1, 2)), image[:, 0, 32:].mean((1, 2))], 1))


def test_likeness_loss_in_closed_form():
    config = tiny_config(swap=SwapConfig(probability=1.0, likeness=1.0, identity_years=30.0))
    step = game(config)
    portrait = torch.zeros(2, 3, SIZE, SIZE)
    portrait[:, 0, :32] = 1.0
    turned = portrait.flip(2)  # at right angles: a cosine of 0
    vectors = torch.from_numpy(np.stack([Attributes(age=20.0).vector()] * 2))
    requested = torch.from_numpy(np.stack([Attributes(age=a).vector() for a in (20.0, 80.0)]))
    sitters = Sitters(portrait, vectors, requested)
    swapped = turned.requires_grad_()
    loss = step._likeness_loss(Place(), swapped, sitters, draws(config))
    assert loss.item() == pytest.approx((1 + 1 / 3) / 2)
    loss.backward()
    assert swapped.grad.abs().sum() > 0
    assert step._likeness_loss(Place(), portrait, sitters, draws(config)).item() == pytest.approx(0.0, abs=1e-6)


def test_likeness_is_one_of_the_losses():
    config = tiny_config(swap=SwapConfig(probability=1.0, likeness=1.0))
    spread = create(config)
    players = [spread.player(network, 1e-3) for network in new_networks(config)]
    judges = Judges(estimators=(Brightness(),), likeness=Place())
    log = GanStep(config, *players, judges)(source().batch(0), draws(config, swap=True))
    assert 0.0 <= log["likeness"] <= 2.0 and log["share/likeness"] > 0


def test_frozen_thaws_after_an_error():
    network = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), frozen(network):
        raise RuntimeError
    assert all(p.requires_grad for p in network.parameters())


def test_one_batch_can_be_overfitted():
    reconstruction_only = replace(NO_WEIGHTS, gan=0.0, feature_matching=0.0, kl=0.0)
    config = tiny_config(lr_generator=5e-3, loss=reconstruction_only, pixel=1.0)
    step, batch = game(config), source().batch(0)
    losses = [
        step(batch, draws(config, swap=False, flip=torch.zeros(4, dtype=torch.bool)))["pixel"].item()
        for _ in range(100)
    ]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


@pytest.mark.parametrize("put_back", [False, True])
def test_the_swap_pass_makes_age_bite(put_back):
    """With "brightness" as age, the rendered brightness must follow the requested age."""
    swap = SwapConfig(probability=0.5, put_back=put_back)
    config = tiny_config(lr_generator=5e-3, loss=AGE_ALONE, pixel=1.0, swap=swap)
    step, batch = game(config), source().batch(0)
    for seen in range(60):
        step(batch, draws(config, 4 * seen))
    network = step.autoencoder.module.eval()
    estimates = []
    for age in (20.0, 70.0):
        wanted = batch.attributes.clone()
        wanted[:, AGE], wanted[:, augment.AGE_KNOWN] = age / 100, 1.0
        with torch.no_grad():
            renders = network(batch.image, batch.label_map, wanted, torch.zeros(4, 8))
        estimates.append(Brightness()(renders.image)[0].mean().item())
    slope = (estimates[1] - estimates[0]) / 50.0
    assert slope > 0.3


def test_a_refinement_network_learns_to_put_changes_back():
    """As above, of what is delivered; a generator that does not learn leaves all of it to the refinement network."""
    config = tiny_config(
        lr_generator=2e-3,  # at 5e-3 it learns as much, and loses it again
        loss=AGE_ALONE,
        swap=SwapConfig(probability=1.0, put_back=True, strength=1.5),
        network=replace(tiny_config().network, refinement_width=4),
        learns="refinement",
        warm_start="capricious://default",  # read by the loop, which is not here
    )
    step, batch = game(config), source().batch(0)
    network = step.autoencoder.module
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for seen in range(60):
        step(batch, draws(config, 4 * seen))
    network.eval()
    estimates = []
    for age in (20.0, 70.0):
        wanted = augment.request(batch.attributes, draws(config, age=torch.full((4,), age)))
        with torch.no_grad():
            renders = network(batch.image, batch.label_map, batch.attributes, torch.zeros(4, 8), wanted)
        estimates.append(Brightness()(renders.swapped)[0].mean().item())
    assert (estimates[1] - estimates[0]) / 50.0 > 0.1
    changed = {
        name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"refinement"}


def test_the_discriminator_learns_which_attributes_go_with_a_portrait():
    """Every age is right for one portrait and wrong for another: only who looks at the pictures can tell."""
    network = replace(tiny_config().network, projection=True)
    config = tiny_config(network=network, mismatched=1.0, lr_discriminator=4e-3, swap=SwapConfig(probability=0.0))
    batch = source().batch(0)
    attributes = torch.zeros_like(batch.attributes)
    attributes[:, AGE], attributes[:, augment.AGE_KNOWN] = torch.tensor([0.1, 0.4, 0.7, 1.0]), 1.0
    batch = replace(batch, attributes=attributes)
    step = game(config)
    nothing = torch.zeros(4, dtype=torch.bool)
    told = draws(config, swap=False, flip=nothing, dropped=nothing[:, None].expand(4, 5))
    for _ in range(128):
        step(batch, told)
    with torch.no_grad():
        right, wrong = (
            step.discriminator.module(batch.label_map, batch.image, ages)[0][-1].mean((1, 2, 3))
            for ages in (attributes, attributes.roll(1, 0))
        )
    assert (right > wrong + 0.2).all(), (right, wrong)


def test_mismatch_counts_known_ages_and_genders_alone():
    sitters = torch.zeros(4, 19)
    sitters[:, AGE], sitters[:, augment.GENDER] = 0.5, 1.0
    sitters[:3, augment.AGE_KNOWN] = sitters[:, augment.GENDER_KNOWN] = 1.0
    others = sitters.clone()
    others[:, AGE] = torch.tensor([0.6, 0.9, 0.5, 0.9])  # 10 years off, 40 off, none; and 40 off an unknown age
    others[2, augment.GENDER] = 0.0
    wrong = Sitters(torch.zeros(4, 3, 2, 2), sitters, None).mismatch(others)
    assert wrong.tolist() == pytest.approx([0.5, 1.0, 1.0, 0.0])


def test_bf16_keeps_losses_and_weights_in_float32():
    config = tiny_config(precision="bf16", channels_last=True)
    step = game(config)
    log = step(source().batch(0), draws(config))
    assert all(v.dtype == torch.float32 and v.isfinite() for v in log.values())
    assert all(p.dtype == torch.float32 for p in step.autoencoder.module.parameters())


def test_projection_discriminator_sees_what_was_asked():
    config = tiny_config(network=replace(tiny_config().network, projection=True))
    step = game(config)
    asked = []
    step.discriminator.module.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[2]))
    batch, drawn = source().batch(0), draws(config, dropped=torch.zeros(4, 5, dtype=torch.bool))
    step(batch, drawn)
    own, requested = batch.attributes, augment.request(batch.attributes, drawn)
    expected = [torch.cat([own, requested, own]), torch.cat([own, requested]), own]
    assert all(torch.equal(a, e) for a, e in zip(asked, expected, strict=True))
    asked.clear()
    step(batch, draws(config, dropped=torch.ones(4, 5, dtype=torch.bool)))
    assert not asked[0][:4].any() and not asked[0][8:].any()
    hidden = asked[0][4:8]  # of those that were requested only the age is left
    assert hidden[:, augment.AGE_KNOWN].all() and not hidden[:, augment.GENDER_KNOWN].any()


def test_what_lies_beyond_the_picture_teaches_nothing():
    config = tiny_config(pixel=1.0)
    batch = source().batch(0)
    nothing = replace(batch, inside=torch.zeros_like(batch.inside))
    step = game(config)
    log = step(nothing, draws(config))
    assert log["pixel"] == 0 and log["feature_matching"] == 0 and log["identity"] == 0
    assert step(batch, draws(config))["pixel"] > 0


def test_lazy_penalty_comes_every_few_steps_and_counts_for_all_of_them():
    config = tiny_config(r1=R1Config(weight=2.0, every=4))
    step, batch = game(config), source().batch(0)
    losses_of = []
    update = step.discriminator.update
    step.discriminator.update = lambda loss: (losses_of.append(loss.item()), update(loss))
    logs = [step(batch, draws(config, 4 * seen), discriminator_steps=2) for seen in range(5)]
    assert ["r1" in log for log in logs] == [True, False, False, False, True]
    # Of the two updates of a step the first has it: hinge loss + γ/2 · 4 · penalty. (log has the second one's hinge.)
    alone = game(replace(config, r1=R1Config()))(batch, draws(config))
    assert losses_of[0] - alone["discriminator"].item() == pytest.approx(2.0 / 2 * 4 * logs[0]["r1"].item(), rel=1e-3)


def test_penalty_and_adversary_learn_the_same_under_ddp():
    weights = []
    for strategy in ("plain", "ddp"):
        loss = replace(NO_WEIGHTS, adversary=1.0)
        config = tiny_config(r1=R1Config(weight=2.0, every=1), loss=loss, strategy=strategy)
        spread = create(config)
        try:
            networks = new_networks(config)
            players = [spread.player(network, 1e-3) for network in networks]
            GanStep(config, *players, Judges(estimators=(Brightness(),)))(source().batch(0), draws(config))
            weights.append([p.detach() for network in networks for p in network.parameters()])
        finally:
            spread.processes.close()
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_augmented_step_shows_the_discriminator_pairs_that_moved_together():
    config = tiny_config(augment=PairAugmentConfig(probability=1.0, colour=False, cutout=False))
    step, batch = game(config), source().batch(0)
    shown = []
    step.discriminator.module.register_forward_pre_hook(lambda module, inputs: shown.append(inputs))
    drawn = draws(config, flip=torch.zeros(4, dtype=torch.bool), swap=False)
    step(batch, drawn, augment_probability=1.0)
    label_map, image, _ = shown[0]
    assert torch.equal(label_map[:4], label_map[4:])  # reconstruction and portrait are shifted alike
    outside = label_map[4:] == 7
    assert outside.any() and (image[4:].abs().amax(1)[outside] == 0).all()
    assert not torch.equal(label_map[4:].long(), batch.label_map.long())


def test_painterly_portraits_are_what_everyone_sees():
    config = tiny_config(painterly=1.0)
    step, batch = game(config), source().batch(0)
    encoded, judged = [], []
    step.autoencoder.module.encoder.register_forward_pre_hook(lambda m, inputs: encoded.append(inputs[0]))
    step.discriminator.module.register_forward_pre_hook(lambda m, inputs: judged.append(inputs[1]))
    step(batch, draws(config, swap=False, flip=torch.zeros(4, dtype=torch.bool)))
    assert not torch.equal(encoded[0], batch.image)
    assert torch.equal(encoded[0], judged[0][4:]) and torch.equal(encoded[0], judged[2])


def test_distinct_patches_take_the_same_step():
    # Of the losses; the gradients are compared in double precision in test_patches.
    configs = [tiny_config(distinct_share=share) for share in (0.0, 1.0)]
    plain, distinct = (game(config)(source().batch(0), draws(config)) for config in configs)
    for name, value in plain.items():
        assert distinct[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def test_distinct_patches_are_the_default_on_a_cpu_alone():
    share = new_networks(tiny_config())[0].generator.distinct_share
    assert 0.0 < share < 1.0
    assert new_networks(tiny_config(device="cuda"))[0].generator.distinct_share == 0.0
    assert new_networks(tiny_config(distinct_share=0.7, device="cuda"))[0].generator.distinct_share == 0.7


# --- configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1}, "batch norm"),
        ({"kimg": 0}, "kimg"),
        ({"resolution": 100}, "resolution"),
        ({"betas": (0.0, 1.0)}, "betas"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"keep_checkpoints": 1}, "newest one may be in use"),
        ({"attribute_dropout": 1.5}, "attribute_dropout"),
        ({"discriminator_steps": 0}, "discriminator_steps"),
        ({"max_minutes": 0.0}, "max_minutes"),
        ({"painterly": -0.1}, "painterly"),
        ({"distinct_share": 2.0}, "distinct_share"),
        ({"mismatched": 1.0}, "projection"),
        ({"compile": True, "distinct_share": 0.5}, "compile needs --training.distinct-share 0"),
        ({"network": NetworkConfig(refinement_width=8)}, "put-back"),
        ({"learns": "refinement", "warm_start": "runs/first/weights"}, "refinement-width"),
        ({"r1": R1Config(weight=1.0), "strategy": "deepspeed", "zero_stage": 3}, "use zero_stage 2"),
    ],
)
def test_impossible_configurations_are_refused_with_the_field(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: R1Config(weight=-1.0), r"r1\.weight"),
        (lambda: R1Config(every=0), r"r1\.every"),
        (lambda: PairAugmentConfig(probability=1.5), r"augment\.probability"),
        (lambda: PairAugmentConfig(target=1.0), "mean of signs"),
        (lambda: PairAugmentConfig(kimg=0.0), r"augment\.kimg"),
        (lambda: SwapConfig(identity_features=-1.0), "identity_features"),
        (lambda: SwapConfig(likeness=-1.0), "likeness"),
        (lambda: SwapConfig(strength=1.5), "put-back"),
        (lambda: SwapConfig(strength=0.0, put_back=True), r"swap\.strength"),
    ],
)
def test_impossible_controls_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_impossible_swaps_are_refused():
    with pytest.raises(ConfigError, match="min_age"):
        SwapConfig(min_age=80.0, max_age=20.0)
    with pytest.raises(ConfigError, match="probability"):
        SwapConfig(probability=2.0)
