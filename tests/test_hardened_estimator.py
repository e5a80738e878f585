"""The age estimator that training makes for itself, from ImageNet's weights."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import save_file
from training_tools import SIZE, write_dataset

from capricious.errors import CapriciousError
from capricious.model.hardened_estimator import AGES, HardenedEstimator, expected_age, load_hardened_estimator
from capricious.model.mobilenet_v2 import load_feature_network
from capricious.training import estimator
from capricious.training.augment import AGE, GENDER
from capricious.training.estimator import Arguments, _changed, _hostile, _loss, _source


def arguments(folder, **changes) -> Arguments:
    values = {"data": (write_dataset(folder / "data", 12, held_out=4),), "out": str(folder / "estimator.safetensors")}
    return Arguments(**{**values, "resolution": SIZE, "batch_size": 4, "device": "cpu", **changes})


@pytest.fixture(scope="module")
def fresh() -> HardenedEstimator:
    torch.manual_seed(0)
    network = HardenedEstimator()
    network.features = load_feature_network()
    return network.eval()  # it knows nothing of age: for the arithmetic around it


def test_the_age_is_the_expectation_of_the_classes():
    logits = torch.full((2, AGES), -1e9)
    logits[0, 40] = 0.0
    logits[1, [20, 60]] = torch.tensor([0.0, 0.0])
    assert expected_age(logits).tolist() == pytest.approx([40.0, 40.0])


def test_unknown_ages_and_genders_teach_nothing(fresh):
    image, attributes = torch.zeros(2, 3, SIZE, SIZE), torch.zeros(2, 19)  # no bit says that anything is known
    attributes[:, AGE], attributes[:, GENDER] = torch.tensor([0.1, 0.9]), torch.tensor([0.0, 1.0])
    assert _loss(fresh, image, attributes).item() == 0.0


def test_hostile_noise_stays_small_and_misleads_more_than_chance(fresh, tmp_path):
    batch = _source(arguments(tmp_path), "train", balance=False).batch(0)
    random = torch.Generator().manual_seed(0)
    hostile = _hostile(fresh, batch.image, batch.attributes, 0.05, random)
    chance = batch.image + 0.05 * torch.randn(batch.image.shape, generator=random).sign()
    assert (hostile - batch.image).abs().max() <= 0.05 + 1e-6
    with torch.no_grad():
        assert _loss(fresh, hostile, batch.attributes) > _loss(fresh, chance, batch.attributes)


def test_changed_portraits_keep_their_range_and_are_never_the_same_twice(tmp_path):
    batch = _source(arguments(tmp_path), "train", balance=False).batch(0)
    random = torch.Generator().manual_seed(0)
    first, second = _changed(batch, random), _changed(batch, random)
    assert first.shape == batch.image.shape and first.abs().max() <= 1.0
    assert (first - second).abs().mean() > 0.05


def test_the_command_learns_says_its_held_out_error_and_writes_what_the_trainer_reads(fresh, tmp_path, caplog):
    flags = ["--kimg", "0.16", "--batch-size", "8", "--resolution", str(SIZE), "--device", "cpu", "--hostility", "1"]
    data, out = write_dataset(tmp_path / "data", 12, held_out=4), tmp_path / "made" / "estimator.safetensors"
    with caplog.at_level(logging.INFO):
        assert estimator.main(["--data", data, "--out", str(out), *flags]) == 0
    assert "held out: portraits" in caplog.text
    network = load_hardened_estimator(out)
    learnt = _source(arguments(tmp_path / "again"), "train", balance=False)
    batch = learnt.batch(0)
    with torch.no_grad():
        assert _loss(network, batch.image, batch.attributes) < 0.8 * _loss(fresh, batch.image, batch.attributes)
    age, male = network(batch.image)
    assert age.shape == male.shape == (4,) and ((age > 0) & (age < 100)).all() and ((male > 0) & (male < 1)).all()


def test_another_networks_weights_are_refused_by_name(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CapriciousError, match="other.safetensors is not a hardened estimator"):
        load_hardened_estimator(tmp_path / "other.safetensors")
    with pytest.raises(CapriciousError, match="nothing.safetensors"):
        load_hardened_estimator(tmp_path / "nothing.safetensors")
