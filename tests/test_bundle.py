"""Model bundles: what is written is what is read, and nothing else is. Random weights: wiring only."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from model_tools import inputs, shaken, tiny

from capricious.data.records import picture_names
from capricious.errors import CapriciousError
from capricious.model.bundle import Bundle, load_bundle, save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator
from capricious.model.layers import plain_state
from capricious.model.refinement import Refinement, RefinementConfig

CONFIG = tiny()


def networks() -> tuple[Generator, StyleEncoder]:
    torch.manual_seed(0)
    generator, encoder = shaken(Generator(CONFIG), 0.1), shaken(StyleEncoder(EncoderConfig(64, 2, 8)), 0.1)
    with torch.no_grad():
        for seed in range(3):  # running statistics and power iterations that are not the initial ones
            encoder(generator(*inputs(2, CONFIG, seed)))
    return generator, encoder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", *networks(), {"licence": "research", "metrics": {"psnr": 21.5}})
    return tmp_path / "bundle"


def edit(folder: Path, **fields: object) -> None:
    info = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**info, **fields}))


def test_plain_weights_give_what_spectral_norm_gives_in_eval_mode():
    generator, _ = networks()
    plain = Generator(CONFIG, spectral=False).eval()
    plain.load_state_dict(plain_state(generator))
    assert generator.training  # left as it was
    labels, latent, attributes = inputs(2, CONFIG)
    with torch.no_grad():
        expected = generator.eval()(labels, latent, attributes)
        torch.testing.assert_close(plain(labels, latent, attributes), expected, atol=1e-6, rtol=1e-6)


def test_round_trip_gives_the_same_pictures_bit_for_bit(saved):
    generator, encoder = networks()
    bundle = load_bundle(saved)
    labels, latent, attributes = inputs(2, CONFIG)
    with torch.no_grad():
        picture = generator.eval()(labels, latent, attributes)
        assert torch.equal(bundle.generator(labels, latent, attributes), picture)
        assert torch.equal(bundle.encoder(picture)[0], encoder.eval()(picture)[0])
    assert bundle.generator.config == CONFIG
    for network in (bundle.generator, bundle.encoder):
        assert not network.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())


def test_saving_a_loaded_bundle_again_gives_the_same_weights(saved, tmp_path):
    first = load_bundle(saved)
    save_bundle(tmp_path / "again", first.generator, first.encoder)
    assert load_bundle(tmp_path / "again").info["files"] == first.info["files"]


def test_a_refinement_network_comes_back_and_cannot_be_lost(saved, tmp_path):
    first = load_bundle(saved)
    torch.manual_seed(1)
    refinement = Refinement(RefinementConfig(64, 4))
    save_bundle(tmp_path / "refined", first.generator, first.encoder, refinement=refinement)
    again = load_bundle(tmp_path / "refined")
    assert again.refinement is not None and not again.refinement.training
    for name, value in refinement.state_dict().items():
        assert torch.equal(again.refinement.state_dict()[name], value)
    assert first.refinement is None
    (tmp_path / "refined" / "refinement.safetensors").unlink()
    with pytest.raises(CapriciousError, match=r"refinement\.safetensors is missing"):
        load_bundle(tmp_path / "refined")


def test_bfloat16_halves_the_file_and_stays_close(saved, tmp_path):
    generator, encoder = networks()
    save_bundle(tmp_path / "small", generator, encoder, dtype="bfloat16")
    file = "generator.safetensors"
    assert (tmp_path / "small" / file).stat().st_size < 0.75 * (saved / file).stat().st_size
    labels, latent, attributes = inputs(2, CONFIG)
    small = load_bundle(tmp_path / "small")
    assert next(small.generator.parameters()).dtype == torch.float32
    with torch.no_grad():
        error = small.generator(labels, latent, attributes) - generator.eval()(labels, latent, attributes)
    assert 0 < error.abs().max() < 0.1


def test_info_is_kept_and_named_by_its_hash(saved, tmp_path):
    bundle = load_bundle(saved)
    assert bundle.info["licence"] == "research" and bundle.info["metrics"] == {"psnr": 21.5}
    assert bundle.info["resolution"] == 64 and bundle.info["alignment"] == "ffhq"
    assert bundle.sha256 == load_bundle(saved).sha256
    save_bundle(tmp_path / "other", bundle.generator, bundle.encoder, {"licence": "other"})
    assert load_bundle(tmp_path / "other").sha256 != bundle.sha256
    assert len(Bundle(bundle.generator, bundle.encoder, {}).sha256) == 64


def test_a_changed_weight_is_refused(saved):
    path = saved / "generator.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CapriciousError, match=r"generator\.safetensors: sha256"):
        load_bundle(saved)


@pytest.mark.parametrize("file", ["bundle.json", "generator.safetensors", "encoder.safetensors"])
def test_a_missing_file_is_named(saved, file):
    (saved / file).unlink()
    with pytest.raises(CapriciousError, match=file):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format_version", 2),
        ("attribute_vector", {"version": 0, "fields": []}),
        ("classes", ["background"]),
        ("alignment", "none"),
        ("architecture", {"generator": {"depth": 3}}),
        ("files", None),
        ("strength", 0),
        ("strength", "much"),
    ],
)
def test_a_bundle_that_this_version_cannot_read_is_refused_by_field(saved, field, value):
    edit(saved, **{field: value})
    with pytest.raises(CapriciousError, match=field):
        load_bundle(saved)


def test_a_bundle_says_how_strongly_its_changes_are_put_back(saved):
    assert load_bundle(saved).strength == 1.0
    edit(saved, strength=1.25)
    assert load_bundle(saved).strength == 1.25


def test_weights_of_another_architecture_are_refused(saved):
    info = json.loads((saved / "bundle.json").read_text())
    info["architecture"]["generator"]["width"] = 3
    edit(saved, architecture=info["architecture"])
    with pytest.raises(CapriciousError, match="does not fit the architecture"):
        load_bundle(saved)


def test_saving_replaces_a_bundle_but_no_foreign_folder(saved, tmp_path):
    save_bundle(saved, *networks(), {"licence": "new"})
    assert load_bundle(saved).info["licence"] == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]  # nothing temporary is left

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(CapriciousError, match="is not a bundle"):
        save_bundle(foreign, *networks())
    assert (foreign / "thesis.tex").read_text() == "years of work"


def test_a_failed_save_leaves_the_old_bundle(saved, tmp_path):
    with pytest.raises(TypeError):
        save_bundle(saved, *networks(), {"licence": object()})
    assert load_bundle(saved).info["licence"] == "research"
    with pytest.raises(CapriciousError, match="must not contain resolution"):
        save_bundle(tmp_path / "b", *networks(), {"resolution": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def between_old_and_new(monkeypatch, strike) -> None:
    """Calls strike() when the old bundle is set aside and the new one is not there yet."""
    rename = Path.rename

    def struck(path: Path, target: Path) -> Path:
        if Path(target).name == "bundle" and not path.name.endswith("-old"):
            strike()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", struck)


def test_a_save_that_fails_between_old_and_new_puts_the_old_one_back(saved, tmp_path, monkeypatch):
    def fail() -> None:
        raise OSError("Input/output error")

    between_old_and_new(monkeypatch, fail)
    with pytest.raises(OSError, match="Input/output"):
        save_bundle(saved, *networks(), {"licence": "new"})
    assert load_bundle(saved).info["licence"] == "research"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_save_that_is_killed_between_old_and_new_is_told_with_the_remedy(saved, tmp_path):
    killed = multiprocessing.get_context("spawn").Process(target=save_and_be_killed, args=(saved,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    with pytest.raises(CapriciousError, match="a save was killed while it replaced the one here: rename ") as told:
        load_bundle(saved)
    aside = Path(str(told.value).split("rename ")[1].split(" to ")[0])
    aside.rename(saved)
    assert load_bundle(saved).info["licence"] == "research"
    with pytest.raises(CapriciousError, match=r"it has no bundle\.json$"):
        load_bundle(tmp_path / "other")


def save_and_be_killed(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        between_old_and_new(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
        save_bundle(folder, *networks(), {"licence": "new"})


def test_a_bundle_says_on_which_pictures_it_was_trained(tmp_path, saved):
    names = picture_names([f"ff{i:062x}-{i}" for i in (3, 1, 1, 2)])
    save_bundle(tmp_path / "known", *networks(), training_pictures=names)
    bundle = load_bundle(tmp_path / "known")
    assert bundle.training_pictures.tolist() == [0xFF00000000000000]  # the first 8 bytes are the same of all
    assert load_bundle(saved).training_pictures is None
    others = picture_names(["00" * 32 + "-0", "ff" * 32 + "-1"])
    assert others.tolist() == [0, 2**64 - 1]
    (tmp_path / "known" / "training_pictures.safetensors").unlink()
    with pytest.raises(CapriciousError, match="training_pictures.safetensors is missing"):
        load_bundle(tmp_path / "known")
