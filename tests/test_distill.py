"""How our parser is made: network, augmentation, loss, batches, training that resumes. Random weights: wiring."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from capricious.annotate.distill import __main__ as alone
from capricious.annotate.distill.batches import BatchSource, as_batch, balance
from capricious.annotate.distill.loop import DistillConfig, dice, distill, distillation_loss
from capricious.annotate.distill.measure import measure, teachers_parsing
from capricious.annotate.distill.painterly import painterly
from capricious.annotate.distill.parser import MEASURES, PARSER
from capricious.annotate.distill.targets import SIZE, Target, write_targets
from capricious.annotate.parsing import Parsing
from capricious.annotate.unet import ParsingUNet, load_unet, save_unet
from capricious.annotate.unet_graph import LOGITS
from capricious.annotate.unet_parser import UNetParser, parsing_of
from capricious.errors import CapriciousError, ConfigError
from capricious.faces.image import encode
from capricious.faces.label_map import BACKGROUND, HAIR, SKIN


def a_target(number: int, collection: str = "made-up") -> Target:
    """A disc of skin under a cap of hair, with glasses on every second one."""
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = np.hypot(x - 128 - number, y - 140) < 70
    cap = disc & (y < 100)
    bar = disc & (np.abs(y - 130) < 12) & (number % 2 == 0)
    image = np.full((SIZE, SIZE, 3), 90, np.uint8)
    image[disc], image[cap], image[bar] = (220, 170, 140), (60, 40, 20), (10, 10, 10)
    soft = np.stack([disc & ~cap, cap, bar], -1).astype(np.uint8) * 255
    inside = np.where(x < 200, 255, 0).astype(np.uint8)
    return Target(
        collection, f"{number}.png", "train", encode(image, "png"), encode(soft, "png"), encode(inside, "png")
    )


TARGETS = [a_target(number) for number in range(6)]


def test_the_network_has_the_papers_shape_and_fits_the_package():
    net = ParsingUNet().eval()
    assert net(torch.zeros(1, 3, 256, 256)).shape == (1, len(LOGITS), 128, 128)
    shapes = [tuple(tap.shape[1:]) for tap in net.encoder(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(16, 32, 32), (24, 16, 16), (32, 8, 8), (96, 4, 4), (320, 2, 2)]
    assert sum(p.numel() for p in net.parameters()) < 2.5e6


def test_the_loss_falls_to_the_teachers_entropy_when_the_student_agrees():
    soft = torch.zeros(1, 3, 4, 4)
    soft[:, 0, :2], soft[:, 1, 2] = 1.0, 1.0
    soft[:, 2, 0] = 1.0
    agreeing = torch.full((1, 4, 4, 4), -20.0)
    agreeing[:, 1, :2], agreeing[:, 2, 2], agreeing[:, 0, 3], agreeing[:, 3, 0] = 20.0, 20.0, 20.0, 20.0
    assert distillation_loss(agreeing, soft, sharpness=2.0) < 1e-4
    assert distillation_loss(agreeing.roll(1, 1), soft, sharpness=2.0) > 1.0
    # With the student at a loss and a hard teacher, every term is known.
    undecided = distillation_loss(torch.zeros(1, 4, 4, 4), soft, sharpness=1.0).item()
    third = [(2 * n / 3 + 1) / (n + 16 / 9 + 1) for n in (4, 8, 4)]
    glasses = (2 * 4 * 0.5 + 1) / (4 + 16 * 0.25 + 1)
    expected = math.log(3) + 0.5 * (1 - sum(third) / 3) + 2 * math.log(2) + 0.5 * (1 - glasses)
    assert undecided == pytest.approx(expected, rel=1e-5)


def test_dice_of_equal_maps_is_one_and_of_disjoint_maps_nearly_none():
    a = torch.zeros(1, 2, 8, 8)
    a[:, :, :4] = 1.0
    assert torch.allclose(dice(a, a), torch.ones(2))
    assert (dice(a, 1 - a) < 0.02).all()


def test_augmentation_repeats_with_its_seed_and_moves_picture_and_labels_alike():
    augment = painterly(0.7)
    image, soft = TARGETS[0].decoded()

    def worn(seed):
        augment.set_random_seed(seed)
        return augment(image=image, mask=soft)

    again = [(worn(seed), worn(seed)) for seed in range(20)]
    assert all(np.array_equal(a[key], b[key]) for a, b in again for key in ("image", "mask"))
    assert len({a["image"].tobytes() for a, _ in again}) > 15  # now and then a picture stays as it is
    # The teacher's probabilities must still be some: nothing may add skin to hair beyond certainty.
    for a, _ in again:
        assert a["image"].dtype == a["mask"].dtype == np.uint8
        assert (a["mask"][..., 0].astype(int) + a["mask"][..., 1]).max() <= 256


def test_copies_that_are_not_worn_are_only_moved():
    image, _ = TARGETS[0].decoded()
    for worn_share, alike in ((0.0, True), (1.0, False)):
        augment = painterly(worn_share)
        augment.set_random_seed(1)
        copies = [augment(image=image, mask=image) for _ in range(8)]
        assert all(np.array_equal(copy["image"], copy["mask"]) for copy in copies) == alike
        assert not all(np.array_equal(copy["image"], image) for copy in copies)


def test_a_small_collection_is_drawn_more_often_than_its_size_and_less_than_evenly():
    likely = balance(["photos"] * 900 + ["paintings"] * 100, [False] * 1000)
    assert likely.sum() == pytest.approx(1.0)
    assert likely[900:].sum() == pytest.approx(10 / 40)
    with_glasses = balance(["photos"] * 4, [True, False, False, False])
    assert with_glasses.tolist() == pytest.approx([4 / 7, 1 / 7, 1 / 7, 1 / 7])


def test_batches_follow_from_seed_number_and_rank():
    source = BatchSource(TARGETS, batch_size=2, seed=3, worn_share=1.0)
    streamed = list(source.stream(5, [64, 64, 96]))
    single = BatchSource(TARGETS, batch_size=2, seed=3, worn_share=1.0).batch(7, 96)
    assert torch.equal(streamed[2].images, single.images) and torch.equal(streamed[2].soft_labels, single.soft_labels)
    elsewhere = list(source.stream(5, [64, 64, 96], loaders=2))  # in other processes
    assert all(torch.equal(a.images, b.images) for a, b in zip(streamed, elsewhere, strict=True))
    assert single.images.shape == (2, 3, 96, 96) and single.soft_labels.shape == (2, 3, 48, 48)
    assert not torch.equal(BatchSource(TARGETS, 2, seed=3, rank=1, worn_share=1.0).batch(7, 96).images, single.images)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    config = DistillConfig(kimg=0.006, batch_size=2, small_size=32, small_share=1.0, checkpoint_kimg=0.002)
    whole = distill(config, TARGETS, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(metrics, checkpoint):
        if metrics["kimg"] == 0.004:
            raise Killed

    with pytest.raises(Killed):
        distill(config, TARGETS, tmp_path / "parts", report=kill)
    parts = distill(config, TARGETS, tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(ConfigError, match="learning_rate"):
        distill(DistillConfig(**{**vars(config), "learning_rate": 1.0}), TARGETS, tmp_path / "parts")


def test_a_training_can_begin_from_a_parser(tmp_path):
    torch.manual_seed(0)
    save_unet(ParsingUNet().state_dict(), tmp_path / "begun.safetensors")
    config = DistillConfig(
        kimg=0.002, batch_size=2, small_size=32, learning_rate=1e-9, start_from=str(tmp_path / "begun.safetensors")
    )
    begun = load_unet(tmp_path / "begun.safetensors").state_dict()
    trained = distill(config, TARGETS, tmp_path / "out")
    weights = [name for name in begun if name.endswith("0.weight")]
    assert weights and all(torch.allclose(trained[name], begun[name], atol=1e-6) for name in weights)


def test_a_result_can_lie_between_what_was_begun_from_and_what_came_of_it(tmp_path):
    torch.manual_seed(0)
    save_unet(ParsingUNet().state_dict(), tmp_path / "begun.safetensors")
    config = DistillConfig(kimg=0.004, batch_size=2, small_size=32, start_from=str(tmp_path / "begun.safetensors"))
    begun = load_unet(tmp_path / "begun.safetensors").state_dict()
    trained = distill(config, TARGETS, tmp_path / "whole")
    mixed = distill(replace(config, start_share=0.25), TARGETS, tmp_path / "mixed")
    assert not torch.equal(trained["head.weight"], begun["head.weight"])
    for name, value in begun.items():
        if value.is_floating_point():
            assert torch.allclose(mixed[name], 0.25 * value + 0.75 * trained[name], atol=1e-6)


def test_the_shipped_form_runs_as_the_network_does(tmp_path):
    torch.manual_seed(0)
    net = ParsingUNet().eval()
    for module in net.modules():  # statistics as after a training: folding must not only work at 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    path = tmp_path / "parser.safetensors"
    save_unet(net.state_dict(), path)
    assert path.stat().st_size < 5e6
    crop, _ = TARGETS[0].decoded()
    found = UNetParser(path=path).parse(crop)
    with torch.inference_mode():
        logits = load_unet(path)(as_batch([(crop, crop)], SIZE).on("cpu")[0])[0].numpy()
    expected = parsing_of(logits)
    assert (found.labels == expected.labels).mean() > 0.999
    assert found.labels.shape == found.glasses.shape == (SIZE, SIZE)
    with pytest.raises(ValueError, match="256×256×3"):
        UNetParser(path=path).parse(crop[:128])
    save_unet({"head.weight": net.head.weight.detach()}, tmp_path / "other.safetensors")
    with pytest.raises(CapriciousError, match="another network"):
        load_unet(tmp_path / "other.safetensors")
    with pytest.raises(CapriciousError, match="another network"):
        UNetParser(path=tmp_path / "other.safetensors")
    with pytest.raises(CapriciousError, match="train_parser"):
        load_unet(tmp_path / "none.safetensors")


def test_agreement_counts_pixels_and_sitters():
    truth = [teachers_parsing(target.decoded()[1]) for target in TARGETS]
    answers = iter(truth)
    perfect = measure(TARGETS, lambda crop: next(answers))
    assert (perfect.background, perfect.skin, perfect.hair) == (1.0, 1.0, 1.0)
    assert (perfect.glasses_f1, perfect.glasses_worn, perfect.crops) == (1.0, 3, 6)
    nothing = measure(
        TARGETS, lambda crop: Parsing(np.full((SIZE, SIZE), SKIN, np.uint8), np.zeros((SIZE, SIZE), bool))
    )
    skin = sum((t.labels == SKIN).sum() for t in truth) / (6 * SIZE**2)
    assert nothing.whole_skin == pytest.approx(skin)
    inside = sum((t.labels[:, :200] == SKIN).sum() for t in truth) / (6 * SIZE * 200)
    assert nothing.skin == pytest.approx(inside) and nothing.hair == nothing.background == 0.0
    assert nothing.glasses_recall == nothing.glasses_f1 == 0.0


def test_logits_become_classes_at_twice_their_side():
    logits = np.full((4, 2, 2), -1.0, np.float32)
    logits[0, 0], logits[1, 1, 0], logits[2, 1, 1], logits[3, 1, 0] = 1.0, 1.0, 1.0, 1.0
    parsing = parsing_of(logits)
    assert parsing.labels[0].tolist() == [BACKGROUND] * 4
    assert parsing.labels[3].tolist() == [SKIN, SKIN, HAIR, HAIR]
    assert parsing.glasses[3, 0] and not parsing.glasses[0].any() and not parsing.glasses[3, 3]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 1}, "batch_size"),
        ({"small_size": 100}, "multiple of 32"),
        ({"kimg": 0}, "above 0"),
        ({"worn_share": 1.5}, "worn_share"),
        ({"start_share": 0.5}, "start_share"),
    ],
)
def test_impossible_configurations_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        DistillConfig(**wrong)


def test_without_ray_from_targets_to_a_measured_parser(tmp_path, capsys):
    """Two steps make no parser: wiring."""
    held_out = [replace(target, split="test") for target in TARGETS[:2]]
    write_targets(str(tmp_path / "0-made-up"), 0, [*TARGETS[2:], *held_out])
    flags = ["--distill.kimg=0.004", "--distill.batch-size=2", "--distill.small-size=32", "--distill.small-share=1.0"]
    command = ["--targets", str(tmp_path / "0-made-up"), "--out", str(tmp_path / "out"), *flags]
    assert alone.main(command) == 0
    assert "trained on 4 crops" in capsys.readouterr().out
    (measures,) = json.loads((tmp_path / "out" / MEASURES).read_text())["held_out"].values()
    assert measures["crops"] == 2
    assert UNetParser(path=tmp_path / "out" / PARSER).parse(TARGETS[0].decoded()[0]).labels.shape == (SIZE, SIZE)


def test_that_there_is_nothing_to_learn_from_is_told(tmp_path, capsys):
    write_targets(str(tmp_path), 0, [replace(TARGETS[0], split="test")])
    assert alone.main(["--targets", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "jobs/train_parser.py makes them" in capsys.readouterr().err
