"""The independent judge against a graph that is followed node by node, and on a real face."""

import base64
import json

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch.nn.functional import conv2d, pad

from capricious import weights
from capricious.errors import CapriciousError
from capricious.evaluate import faceres
from capricious.evaluate.faceres import AGES, INPUT, MEANS, Faceres, face_of, load_faceres
from capricious.faces.align import align
from capricious.weights.tfjs import read_tfjs


def follow(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Computes every node of the TensorFlow.js graph, in the order of the file's own arrows; NCHW tensors."""
    graph = json.loads(weights.fetch("faceres-graph").read_text())
    arrays = {k: torch.from_numpy(v) for k, v in read_tfjs(graph["weightsManifest"], weights.fetch("faceres")).items()}
    nodes = {node["name"]: node for node in graph["modelTopology"]["node"]}
    done: dict[str, torch.Tensor] = {}

    def value(name: str) -> torch.Tensor:
        if name not in done:
            done[name] = compute(nodes[name])
        return done[name]

    def compute(node: dict) -> torch.Tensor:
        op, names = node["op"], node.get("input", [])
        if op == "Const":
            return arrays[node["name"]]
        if op == "Placeholder":
            return image
        if op in ("Conv2D", "DepthwiseConv2dNative"):
            x, kernel, stride = value(names[0]), value(names[1]), int(node["attr"]["strides"]["list"]["i"][1])
            if stride == 2 or kernel.shape[0] == 1:
                x = pad(x, (0, 1, 0, 1)) if stride == 2 else x
            else:
                x = pad(x, (1, 1, 1, 1))
            if op == "Conv2D":
                return conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride)
            return conv2d(x, kernel.permute(2, 3, 0, 1), stride=stride, groups=x.shape[1])
        if op in ("Add", "Mul"):
            x, other = value(names[0]), value(names[1]).view(1, -1, 1, 1)
            return x + other if op == "Add" else x * other
        if op in ("Minimum", "Maximum"):
            return getattr(torch, op.lower())(value(names[0]), value(names[1]))
        if op == "_FusedMatMul":
            x = value(names[0]) @ value(names[1]) + value(names[2])
            fused = [base64.b64decode(f) for f in node["attr"]["fused_ops"]["list"]["s"]]
            return x.relu() if b"Relu" in fused else x
        if op == "Mean":
            return value(names[0]).mean((2, 3))
        last = value(names[0])
        return {"Relu": last.relu, "Sigmoid": last.sigmoid, "Softmax": lambda: last.softmax(1)}[op]()

    for name in nodes:
        value(name)
    return done


@pytest.fixture(scope="module")
def judge():
    return Faceres()


@pytest.fixture(scope="module")
def crop():
    # A square that FFHQ's alignment would cut, by hand.
    quad = np.array([[125, 15], [125, 215], [325, 215], [325, 15]], np.float32)
    return align(astronaut(), quad, 256)


def test_the_network_is_the_graph(judge, crop):
    noise = np.random.default_rng(0).integers(0, 256, (INPUT, INPUT, 3)).astype(np.uint8)
    faces = np.stack([face_of(crop), noise])
    found = judge.of_faces(faces)
    image = torch.from_numpy((faces[..., ::-1].astype(np.float32) - MEANS).transpose(0, 3, 1, 2).copy())
    nodes = follow(image)
    assert found.age == pytest.approx((nodes["age_pred/Softmax"].numpy() @ AGES).tolist(), abs=1e-3)
    assert found.male == pytest.approx(nodes["gender_pred/Sigmoid"].numpy()[:, 0].tolist(), abs=1e-5)
    embedding = nodes["global_pooling/Mean"].numpy()
    cosine = (embedding * found.embedding).sum(1) / np.linalg.norm(embedding, axis=1)
    assert cosine == pytest.approx([1.0, 1.0], abs=1e-6)


def test_a_real_face(judge, crop):
    found = judge(np.stack([crop, crop[:, ::-1]]))
    assert found.age.min() > 20 and found.age.max() < 45  # she was 37
    assert found.male[0] < 0.5
    assert found.embedding[0] @ found.embedding[1] > 0.8
    assert judge.sha256 == weights.get("faceres").sha256


def test_batches_and_resolutions_hardly_matter(judge, crop):
    many = judge(np.stack([crop] * 11))
    one, none = judge(crop[None]), judge(np.zeros((0, 64, 64, 3), np.uint8))
    assert many.age == pytest.approx([one.age[0]] * 11, abs=1e-3)
    assert none.age.shape == (0,) and none.embedding.shape == (0, 1024)
    half = align(crop, np.array([[0, 0], [0, 256], [256, 256], [256, 0]], np.float32), 128)
    assert judge(half[None]).age[0] == pytest.approx(one.age[0], abs=3)


def test_the_face_is_cut_where_it_should_be():
    """Against the definition: the colour of a cut pixel is that of the crop's point under its centre."""
    ramp = np.linspace(0, 255, 100).astype(np.uint8)
    crop = np.stack([np.tile(ramp, (100, 1)), np.tile(ramp[:, None], (1, 100)), np.zeros((100, 100), np.uint8)], -1)
    cut = face_of(crop, side=0.5, centre=(0.5, 0.6))
    at = (np.arange(INPUT) + 0.5) / INPUT * 50 - 0.5
    assert np.abs(cut[100, :, 0] - np.interp(at + 25, np.arange(100), ramp)).max() <= 1
    assert np.abs(cut[:, 100, 1] - np.interp(at + 35, np.arange(100), ramp)).max() <= 1


def test_weights_of_another_network_are_named(monkeypatch, tmp_path):
    (tmp_path / "graph.json").write_text(json.dumps({"weightsManifest": [{"weights": []}]}))
    (tmp_path / "empty.bin").write_bytes(b"")
    names = {"faceres-graph": tmp_path / "graph.json", "faceres": tmp_path / "empty.bin"}
    monkeypatch.setattr(faceres.weights, "fetch", names.__getitem__)
    with pytest.raises(CapriciousError, match="not the faceres that this code knows"):
        load_faceres()
