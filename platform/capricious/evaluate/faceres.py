"""The independent judge: age, gender and identity by faceres, the network of npm's Human library.

It is kept for evaluation: no training loss, no label and no calibration knows it (docs/evaluation.md). The
network is MobileNet (Howard et al. 2017, table 1) with a dense layer and two heads, rebuilt from the graph of its
file; batch norms are worked into its convolutions there already.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from capricious import weights
from capricious.errors import CapriciousError
from capricious.evaluate.extractor import BATCH, as_onnx, in_batches
from capricious.model.onnx_session import onnx_session
from capricious.weights.tfjs import read_tfjs

INPUT = 224
MEANS = np.array([103.939, 116.779, 123.68], np.float32)
"""Of blue, green and red in 0…255."""

AGES = np.arange(1, 101, dtype=np.float32)
"""Years that the hundred classes stand for; the age is their expectation."""

FACE_CENTRE = (0.5, 0.55)
FACE_SIDE = 0.8
"""The part of an aligned crop that the network is shown, as shares of the crop's side.

Chosen on 80 faces of AAF and 80 of UTKFace, where the optimum is flat: sides of 0.7 to 1.0 and heights of 0.55 and 0.6
differ by at most 0.6 years of mean age error on one set and 1.2 on the other, in opposite directions."""

EMBEDDING = 1024

_CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


@dataclass(frozen=True, eq=False)
class FaceEstimates:
    """What faceres says of N faces.

    Attributes:
        age: N float32, years, 1…100.
        male: N float32, probability of male.
        embedding: N×1024 float32 of length 1: the cosine of two says whether they are one person.
    """

    age: np.ndarray
    male: np.ndarray
    embedding: np.ndarray


class Faceres:
    """Estimates age, gender and identity of aligned crops. Fetches its 7 MB of weights on construction.

    Raises:
        CapriciousError: the weights cannot be had (see `weights.fetch`) or are not those of this network.
    """

    name = "faceres"

    def __init__(self, threads: int = 1):
        self.sha256 = weights.get("faceres").sha256
        program = as_onnx(load_faceres(), INPUT, ["age", "male", "embedding"])
        self._session = onnx_session(program, threads)

    def __call__(self, images: np.ndarray) -> FaceEstimates:
        """Estimates N×S×S×3 uint8 RGB crops, aligned as by faces.align; any N and S."""
        return self.of_faces(np.stack([face_of(image) for image in images]) if len(images) else images)

    def of_faces(self, faces: np.ndarray) -> FaceEstimates:
        """As above, of N×224×224×3 uint8 RGB pictures that are cut to the face already."""
        ages, male, embedding = in_batches(faces, BATCH, self._run, ((len(AGES),), (1,), (EMBEDDING,)))
        length = np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        return FaceEstimates(ages @ AGES, male[:, 0], embedding / length)

    def _run(self, faces: np.ndarray) -> list[np.ndarray]:
        image = (faces[..., ::-1].astype(np.float32) - MEANS).transpose(0, 3, 1, 2)
        return self._session.run(None, {"image": np.ascontiguousarray(image)})


def face_of(crop: np.ndarray, side: float = FACE_SIDE, centre: tuple[float, float] = FACE_CENTRE) -> np.ndarray:
    """Cuts the face out of one aligned S×S×3 uint8 crop, 224×224×3; beyond the crop its edge is repeated.

    Args:
        side, centre: of the square to cut, as shares of the crop's side.
    """
    size = crop.shape[0]
    scale = side * size / INPUT
    image = crop
    if scale > 1:  # antialias: the warp below only interpolates
        small = max(1, round(size / scale))
        image, scale = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA), scale * small / size
    # From the cut to the crop; OpenCV has pixel centres at integers.
    origin = [scale * 0.5 - 0.5 + (c - side / 2) * image.shape[0] for c in centre]
    matrix = np.array([[scale, 0, origin[0]], [0, scale, origin[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (INPUT, INPUT), flags=flags, borderMode=cv2.BORDER_REPLICATE)


class FaceresNetwork(nn.Module):
    """B×3×224×224 BGR minus MEANS → probabilities of AGES (B×100), of male (B×1), embedding (B×1024)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2)
        self.depthwise, self.pointwise = nn.ModuleList(), nn.ModuleList()
        inputs = 32
        for outputs, stride in zip(_CHANNELS, _STRIDES, strict=True):
            self.depthwise.append(nn.Conv2d(inputs, inputs, 3, stride, padding=0 if stride == 2 else 1, groups=inputs))
            self.pointwise.append(nn.Conv2d(inputs, outputs, 1))
            inputs = outputs
        self.feats = nn.Linear(EMBEDDING, 256)
        self.age = nn.Linear(256, len(AGES))
        self.gender = nn.Linear(256, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # TensorFlow's "same" padding of a 3×3 window with stride 2 on an even side: only right and below.
        x = self.conv1(pad(image, (0, 1, 0, 1))).clamp(0.0, 6.0)
        for depthwise, pointwise, stride in zip(self.depthwise, self.pointwise, _STRIDES, strict=True):
            x = depthwise(pad(x, (0, 1, 0, 1)) if stride == 2 else x).clamp(0.0, 6.0)
            x = pointwise(x).clamp(0.0, 6.0)
        embedding = x.mean((2, 3))
        shared = self.feats(embedding).relu()
        return self.age(shared).softmax(1), self.gender(shared).sigmoid(), embedding


def load_faceres() -> FaceresNetwork:
    """Reads the weights of the TensorFlow.js file into the network."""
    path = weights.fetch("faceres-graph")
    arrays = read_tfjs(json.loads(path.read_text(encoding="utf-8"))["weightsManifest"], weights.fetch("faceres"))
    network = FaceresNetwork()
    try:
        network.load_state_dict({name: torch.from_numpy(value) for name, value in _state(arrays)})
    except (KeyError, RuntimeError) as error:
        raise CapriciousError(f"{path} is not the faceres that this code knows: {error}") from None
    return network.eval().requires_grad_(False)


def _state(arrays: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Renames the file's arrays and turns them from TensorFlow's order of axes into torch's."""
    state = [
        ("conv1.weight", arrays["conv1/convolution/merged_input"].transpose(3, 2, 0, 1)),
        ("conv1.bias", arrays["conv1_bn/batchnorm_1/sub"]),
    ]
    for i in range(len(_CHANNELS)):
        # Of a depthwise kernel (height, width, channel, 1) the norm's factor stands beside it.
        factor = arrays[f"conv_dw_{i + 1}_bn/batchnorm_1/mul"]
        kernel = arrays[f"conv_dw_{i + 1}/depthwise_kernel"].transpose(2, 3, 0, 1)
        state += [
            (f"depthwise.{i}.weight", kernel * factor.reshape(-1, 1, 1, 1)),
            (f"depthwise.{i}.bias", arrays[f"conv_dw_{i + 1}_bn/batchnorm_1/sub"]),
            (f"pointwise.{i}.weight", arrays[f"conv_pw_{i + 1}/convolution/merged_input"].transpose(3, 2, 0, 1)),
            (f"pointwise.{i}.bias", arrays[f"conv_pw_{i + 1}_bn/batchnorm_1/sub"]),
        ]
    for ours, theirs in (("feats", "feats"), ("age", "age_pred"), ("gender", "gender_pred")):
        state += [(f"{ours}.weight", arrays[f"{theirs}/kernel"].T), (f"{ours}.bias", arrays[f"{theirs}/bias"])]
    return [(name, np.ascontiguousarray(value)) for name, value in state]
