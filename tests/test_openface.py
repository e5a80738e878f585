"""OpenFace's network in torch, with its real weights (fetched): it knows a face again, and folds what it should."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from torch.nn.functional import batch_norm, conv2d

from capricious import weights
from capricious.errors import CapriciousError
from capricious.faces.align import align
from capricious.model import openface
from capricious.model.openface import OpenFace

# Corners (top left, bottom left, bottom right, top right) of an FFHQ-style crop around the astronaut's
# face, drawn by hand.
ASTRONAUT = np.array([[142, 18], [142, 202], [326, 202], [326, 18]], np.float32)
SAMPLES = sorted((Path(__file__).parents[1] / "examples" / "portraits").glob("*.png"))


@pytest.fixture(scope="module")
def recognizer() -> OpenFace:
    return OpenFace()


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1.0


def face(size: int) -> torch.Tensor:
    return tensor(align(astronaut(), ASTRONAUT, size))


def alike(recognizer: OpenFace, one: torch.Tensor, other: torch.Tensor) -> float:
    return float((recognizer(one) * recognizer(other)).sum())


def test_it_knows_the_astronaut_again(recognizer):
    own = face(128)
    moved = tensor(align(astronaut(), ASTRONAUT + np.float32([3, -2]), 128))
    for again in (own.flip(-1), moved, 0.8 * own, face(64), face(512)):
        assert alike(recognizer, own, again) > 0.8


def test_the_astronaut_is_none_of_our_samples(recognizer):
    # Rendered by our own model at 128 px, aligned as every portrait is.
    assert len(SAMPLES) == 12
    others = [tensor(np.asarray(Image.open(path).convert("RGB"))) for path in SAMPLES]
    found = [alike(recognizer, face(128), other) for other in others]
    assert max(found) < 0.7 and np.mean(found) < 0.4


def test_embeddings_are_unit_vectors_of_128_numbers(recognizer):
    embedding = recognizer(torch.cat([face(128), -face(128)]))
    assert embedding.shape == (2, 128) and embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("convolution", ["conv1", "inception_4e_5x5_conv2", "inception_5b_pool_conv"])
def test_a_batch_norm_is_folded_into_its_convolution(recognizer, convolution):
    layer = dict(recognizer._stored_layers())[convolution]
    x = torch.randn(2, layer.in_channels, 9, 9, generator=torch.Generator().manual_seed(0))
    with h5py.File(weights.fetch("openface")) as stored:

        def read(name: str) -> dict[str, torch.Tensor]:
            return {key.split(":")[0]: torch.from_numpy(value[()]) for key, value in stored[name][name].items()}

        conv, norm = read(convolution), read(convolution.replace("conv", "bn"))
    kernel = conv["kernel"].permute(3, 2, 0, 1)
    y = conv2d(x, kernel, conv["bias"], layer.stride, layer.padding)
    y = batch_norm(y, norm["moving_mean"], norm["moving_variance"], norm["gamma"], norm["beta"], eps=1e-5)
    torch.testing.assert_close(layer(x), y, atol=1e-4, rtol=1e-4)


def test_it_is_frozen_but_passes_gradients_to_the_picture(recognizer):
    x = (0.9 * face(128)).requires_grad_()
    recognizer(x)[:, 0].sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert not recognizer.training and not any(p.requires_grad for p in recognizer.parameters())


def test_a_blank_picture_has_finite_gradients(recognizer):
    # Its square roots start at zero.
    x = torch.zeros(1, 3, 128, 128, requires_grad=True)
    recognizer(x)[:, 0].sum().backward()
    assert x.grad.isfinite().all()


def test_autocast_costs_no_more_than_its_rounding(recognizer):
    with torch.autocast("cpu", torch.bfloat16):
        rough = recognizer(face(128).bfloat16())
    assert rough.dtype == torch.float32
    assert float((rough * recognizer(face(128))).sum()) > 0.99


def test_another_networks_weights_are_refused_by_name(monkeypatch, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["conv1/conv1/kernel:0"] = np.zeros((7, 7, 3, 64), np.float32)
    monkeypatch.setattr(openface.weights, "fetch", lambda name: tmp_path / "other.h5")
    with pytest.raises(CapriciousError, match=r"other\.h5 is not the network that OpenFace is"):
        OpenFace()
