"""Smile and emotions of a face: face-api's expression network (MIT), run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from capricious import weights
from capricious.annotate import chip
from capricious.errors import CapriciousError
from capricious.faces.attributes import EMOTIONS, Attributes
from capricious.model.onnx_session import onnx_session
from capricious.weights.face_api import read_face_api

CLASSES = ("neutral", "happy", "sad", "anger", "fear", "disgust", "surprise")
"""The network's outputs in their order, in the words of EMOTIONS."""

INPUT = 112
MEANS = (122.782, 117.001, 104.298)
"""Of red, green and blue, in 0…255; their difference to the picture is divided by 255."""

SIDE = 1.1 / 0.45
"""Chosen among twelve crops on 200 photographs (AAF) and 200 paintings: how often the likeliest emotion of a picture
and of its mirror image agree, 89 and 88 %, against 90 and 82 % of face-api's own crop (1 / 0.45)."""


class Expression:
    """Smile and emotions by face-api's expression network.

    Smile is the probability of "happy": a posed, visible smile. The network knows seven of the eight
    EMOTIONS; contempt is always 0. It was trained on photographs: nearly all painted sitters are "neutral".

    Raises:
        CapriciousError: the weights cannot be had (see `weights.fetch`) or are not those of this network.
    """

    def __init__(self, threads: int = 1):
        manifest = weights.fetch("face-api-expression-manifest")
        state = read_face_api(manifest, weights.fetch("face-api-expression"))
        try:
            graph = expression_graph(state)
        except (KeyError, ValueError) as error:
            raise CapriciousError(f"{manifest} is not of face-api's face_expression_model: {error!r}") from None
        self._network = onnx_session(graph.SerializeToString(), threads)

    def estimate(self, image: np.ndarray, landmarks: np.ndarray) -> Attributes:
        """Returns smile and emotion of the face with these 68×2 landmarks in the H×W×3 uint8 picture."""
        face = chip.cut(image, face_quad(landmarks), INPUT)
        batch = np.ascontiguousarray(face.astype(np.float32).transpose(2, 0, 1)[None])
        (found,) = self._network.run(["probabilities"], {"images": batch})[0]
        named = dict(zip(CLASSES, np.clip(found, 0.0, 1.0).tolist(), strict=True))
        return Attributes(smile=named["happy"], emotion=tuple(named.get(name, 0.0) for name in EMOTIONS))


def face_quad(landmarks: np.ndarray) -> np.ndarray:
    """Returns the square of a face, upright, as 4×2 source pixels.

    That of face-api's own alignment, 1.1 times as large: its side is SIDE times the mean distance from
    eye to mouth, and the middle of eyes and mouth lies in its centre and 0.43 from its top.
    """
    points = landmarks.astype(np.float64)
    right_eye, left_eye, mouth = points[36:42].mean(0), points[42:48].mean(0), points[48:68].mean(0)
    across = (left_eye - right_eye) / np.linalg.norm(left_eye - right_eye)
    down = np.array([-across[1], across[0]])
    side = SIDE * (np.linalg.norm(mouth - right_eye) + np.linalg.norm(mouth - left_eye)) / 2
    centre = (right_eye + left_eye + mouth) / 3 + (0.5 - 0.43) * side * down
    return chip.square(centre, float(side), across)


def expression_graph(state: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Builds face-api's FaceExpressionNet: "images", 1×3×112×112 RGB 0…255, to "probabilities", 1×7.

    Four dense blocks of four convolutions, all separable but the very first; each block's first
    convolution halves the side, and each later one sees the rectified sum of those before it.
    ONNX Runtime runs it three times as fast as torch does.

    Args:
        state: weights by name, as `read_face_api` reads them; torch and ONNX share the layout.

    Raises:
        KeyError: a weight is missing.
        ValueError: the last layer has other classes.
    """
    if len(state["fc.bias"]) != len(CLASSES):
        raise ValueError(f"{len(CLASSES)} classes expected, found: {len(state['fc.bias'])}")
    nodes: list[onnx.NodeProto] = []
    constants = {"means": np.array(MEANS, np.float32).reshape(1, 3, 1, 1), "range": np.array(255.0, np.float32)}

    def node(kind: str, *inputs: str, output: str = "", **settings: Any) -> str:
        output = output or f"{kind}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **settings))
        return output

    def weight(name: str) -> str:
        constants[name] = state[name]
        return name

    def convolve(x: str, name: str, stride: int, separable: bool) -> str:
        # SAME_UPPER is TensorFlow's "same": an odd pixel of padding goes to the right and below.
        spatial: dict[str, Any] = {"strides": [stride, stride], "auto_pad": "SAME_UPPER"}
        if not separable:
            return node("Conv", x, weight(f"{name}.weight"), weight(f"{name}.bias"), **spatial)
        depthwise = weight(f"{name}.depthwise.weight")
        x = node("Conv", x, depthwise, group=state[depthwise].shape[0], **spatial)
        return node("Conv", x, weight(f"{name}.pointwise.weight"), weight(f"{name}.pointwise.bias"))

    x = node("Div", node("Sub", "images", "means"), "range")
    for block in range(4):
        x = total = node("Relu", convolve(x, f"dense{block}.conv0", stride=2, separable=block > 0))
        for layer in (1, 2, 3):
            total = node("Add", total, convolve(x, f"dense{block}.conv{layer}", stride=1, separable=True))
            x = node("Relu", total)
    x = node("Flatten", node("GlobalAveragePool", x))
    x = node("Gemm", x, weight("fc.weight"), weight("fc.bias"), transB=1)
    node("Softmax", x, output="probabilities")
    graph = helper.make_graph(
        nodes,
        "face_expression_model",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, INPUT, INPUT])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, len(CLASSES)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
