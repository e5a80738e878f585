"""The frozen judges of training, with their real weights (fetched) on the one photograph that ships anywhere."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from skimage.data import astronaut
from skimage.transform import resize
from torch import nn

from capricious import weights
from capricious.errors import CapriciousError
from capricious.faces.align import align
from capricious.model.estimator import AgeGenderEstimator
from capricious.model.perceptual import NETWORKS, PerceptualLoss
from capricious.weights.face_api import read_face_api

# Corners (top left, bottom left, bottom right, top right) of an FFHQ-style crop around the astronaut's
# face, drawn by hand.
ASTRONAUT = np.array([[142, 18], [142, 202], [326, 202], [326, 18]], np.float32)


@pytest.fixture(scope="module")
def perceptual() -> PerceptualLoss:
    return PerceptualLoss()


@pytest.fixture(scope="module")
def estimator() -> AgeGenderEstimator:
    return AgeGenderEstimator()


@pytest.fixture(scope="module")
def face() -> torch.Tensor:
    return tensor(align(astronaut(), ASTRONAUT, 128))


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def test_perceptual_loss_is_zero_for_the_same_picture_and_grows_with_damage(perceptual, face):
    noise = torch.randn(face.shape, generator=torch.Generator().manual_seed(0))
    losses = [perceptual.loss(face + s * noise, face).item() for s in (0.0, 0.05, 0.2, 0.8)]
    assert losses[0] == 0.0
    assert losses == sorted(losses) and losses[1] > 0.01


def test_deep_features_know_a_shifted_photograph_from_noise(perceptual):
    photo = tensor(astronaut()[0:256, 100:356])
    shifted = tensor(astronaut()[16:272, 116:372])
    noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    deep = [perceptual(x)[-1].mean((2, 3))[0] for x in (photo, shifted, noise)]
    near, far = (torch.cosine_similarity(deep[0], other, 0).item() for other in deep[1:])
    assert near > 0.9 > 0.6 > far


def test_features_are_of_order_one(perceptual, face):
    for feature in perceptual(face):
        assert 0.3 < feature.mean() < 3.0


def test_vgg_agrees_with_onnxruntime(perceptual):
    # The file's own graph, cut at the last compared layer, on the input it was exported for.
    import onnx

    path = weights.fetch("vgg16-conv")
    model = onnx.load(path)
    name = "functional_1/block4_conv3_1/Relu:0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    photo = resize(astronaut(), (240, 240)).astype(np.float32) * 255
    caffe = photo[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    expected = session.run([name], {"input": caffe[None]})[0]
    found = (
        perceptual(torch.from_numpy(photo / 127.5 - 1.0).permute(2, 0, 1)[None])[-1] * NETWORKS["vgg16"].activations[-1]
    )
    assert np.abs(found.numpy() - expected).max() < 1e-3 * expected.max()


def test_vgg19_is_read_from_torchvisions_layout_and_compared_where_spade_does(tmp_path, monkeypatch):
    """Random weights in torchvision's names, against its layer list (configuration E) written down by itself."""
    torch.manual_seed(0)
    plan = [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"]
    layers, inputs = [], 3
    for entry in plan:
        layers += [nn.MaxPool2d(2)] if entry == "M" else [nn.Conv2d(inputs, entry, 3, padding=1), nn.ReLU()]
        inputs = inputs if entry == "M" else entry
    features = nn.Sequential(*layers)
    path = tmp_path / "vgg19.pth"
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    monkeypatch.setattr(weights, "fetch", lambda name: {"vgg19": path}[name])

    found = PerceptualLoss("vgg19")(photo := torch.rand(1, 3, 32, 32) * 2 - 1)

    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, expected = ((photo + 1) / 2 - mean) / deviation, []
    for i, layer in enumerate(features):
        x = layer(x)
        if i in (1, 6, 11, 20, 29):  # relu1_1, relu2_1, relu3_1, relu4_1, relu5_1
            expected.append(x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_judges_are_frozen_but_pass_gradients_to_the_picture(perceptual, estimator, face):
    for judge in (lambda x: perceptual.loss(x, face), lambda x: estimator(x)[0].sum(), lambda x: estimator(x)[1].sum()):
        x = (0.9 * face).requires_grad_()
        judge(x).backward()
        assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for m in (perceptual, estimator) for p in m.parameters())


def test_estimator_reads_the_astronaut_at_every_resolution(estimator):
    # Eileen Collins was 36 in the photograph.
    for size in (64, 128, 256, 512):
        age, p_male = estimator(tensor(align(astronaut(), ASTRONAUT, size)))
        assert age.shape == p_male.shape == (1,)
        assert 22 < age.item() < 50 and p_male.item() < 0.5


def test_estimator_is_independent_of_the_rest_of_the_batch(estimator, face):
    age, p_male = estimator(torch.cat([face, -face, face]))
    assert age[0] == pytest.approx(age[2].item(), abs=1e-4)
    assert p_male[0] == pytest.approx(p_male[2].item(), abs=1e-5)
    assert abs(age[0] - age[1]) > 0.1


def test_reader_of_tensorflow_js_weights(tmp_path):
    entries = [
        {"name": "a/filters", "shape": [1, 1, 2, 3], "dtype": "float32"},
        {
            "name": "a/separable_conv0/depthwise_filter",
            "shape": [1, 1, 2, 1],
            "dtype": "float32",
            "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0},
        },
        {
            "name": "fc/weights",
            "shape": [1, 2],
            "dtype": "float32",
            "quantization": {"dtype": "uint16", "scale": 0.001, "min": 0.0},
        },
        {"name": "a/separable_conv0/bias", "shape": [1], "dtype": "float32"},
    ]
    manifest, binary = tmp_path / "manifest.json", tmp_path / "weights.bin"
    manifest.write_text(json.dumps([{"paths": ["weights.bin"], "weights": entries}]))
    content = np.arange(6, dtype="<f4").tobytes() + bytes([0, 4]) + np.array([1000, 2], "<u2").tobytes()
    content += np.array([7], "<f4").tobytes()
    binary.write_bytes(content)

    state = read_face_api(manifest, binary)

    assert state["a.weight"][:, :, 0, 0].tolist() == [[0, 3], [1, 4], [2, 5]]  # input×output → output×input
    assert state["a.separable_conv0.depthwise.weight"].flatten().tolist() == [-1.0, 1.0]
    assert state["fc.weight"].tolist() == [[1.0], [pytest.approx(0.002)]]
    assert state["a.separable_conv0.pointwise.bias"].tolist() == [7.0]
    for changed, message in ((content[:-1], "ends before a/separable_conv0/bias"), (content + b"x", "1 bytes more")):
        binary.write_bytes(changed)
        with pytest.raises(CapriciousError, match=message):
            read_face_api(manifest, binary)
