"""Our parser as an ONNX graph, built from its weights: so prepare needs no torch, which takes seconds to load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from capricious.errors import CapriciousError
from capricious.model.imagenet import IMAGENET_MEAN, IMAGENET_STD, MOBILENET_V2_STAGES, MOBILENET_V2_TAPS

LOGITS = ("background", "skin", "hair", "glasses")

_EPSILON = 1e-5  # of torch's batch normalisation


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Reads the weights that unet.save_unet wrote; float32.

    Raises:
        CapriciousError: there is no such file.
    """
    if not path.is_file():
        raise CapriciousError(f"the parser's weights are missing at {path}; train them with jobs/train_parser.py")
    return {name: value.astype(np.float32) for name, value in load_file(path).items()}


def unet_graph(state: Mapping[str, np.ndarray], size: int) -> onnx.ModelProto:
    """Builds unet.ParsingUNet in evaluation, batch normalisation folded into the convolutions.

    "crop", size×size×3 uint8 RGB, to "logits", 4×size/2×size/2 of LOGITS.

    Args:
        state: weights by the names of ParsingUNet, as read_state() reads them.
        size: side of the crop, a multiple of 32.

    Raises:
        KeyError: a weight is missing.
    """
    nodes: list[onnx.NodeProto] = []
    constants = {
        "means": 255.0 * np.array(IMAGENET_MEAN, np.float32).reshape(1, 3, 1, 1),
        "deviations": 255.0 * np.array(IMAGENET_STD, np.float32).reshape(1, 3, 1, 1),
        "double": np.array([1, 1, 2, 2], np.float32),
        "bounds/low": np.array(0.0, np.float32),
        "bounds/high": np.array(6.0, np.float32),
        "first": np.array([0], np.int64),
    }

    def node(kind: str, *inputs: str, output: str = "", **settings: Any) -> str:
        output = output or f"{kind}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **settings))
        return output

    def convolve(x: str, convolution: str, norm: str, stride: int = 1) -> str:
        kernel = state[f"{convolution}.weight"]
        weight, bias, mean, variance = (
            state[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = weight / np.sqrt(variance + _EPSILON)
        constants[f"{convolution}.weight"] = kernel * gain[:, None, None, None]
        constants[f"{convolution}.bias"] = bias - mean * gain
        # Every grouped convolution of the network is depthwise: its kernels have one channel.
        groups = kernel.shape[0] if kernel.shape[1] == 1 else 1
        settings: dict[str, Any] = {"group": groups, "strides": [stride] * 2, "pads": [kernel.shape[-1] // 2] * 4}
        return node("Conv", x, f"{convolution}.weight", f"{convolution}.bias", **settings)

    def rectified(x: str, name: str, stride: int = 1) -> str:  # unet._conv
        return node("Clip", convolve(x, f"{name}.0", f"{name}.1", stride), "bounds/low", "bounds/high")

    def inverted_residual(x: str, name: str, expansion: int, stride: int, residual: bool) -> str:
        wide = rectified(x, f"{name}.conv.0") if expansion > 1 else x
        at = 1 if expansion > 1 else 0
        wide = rectified(wide, f"{name}.conv.{at}", stride)
        narrow = convolve(wide, f"{name}.conv.{at + 1}", f"{name}.conv.{at + 2}")
        return node("Add", x, narrow) if residual else narrow

    def encoded(x: str) -> list[str]:
        x = rectified(x, "encoder.features.0", 2)
        taps, block = [], 0
        for expansion, _, repeats, stride in MOBILENET_V2_STAGES:
            for repeat in range(repeats):
                block += 1
                first = repeat == 0
                x = inverted_residual(x, f"encoder.features.{block}", expansion, stride if first else 1, not first)
                taps += [x] if block in MOBILENET_V2_TAPS else []
        return taps

    crop = node("Unsqueeze", node("Transpose", "crop", perm=[2, 0, 1]), "first")
    image = node("Div", node("Sub", node("Cast", crop, to=TensorProto.FLOAT), "means"), "deviations")
    *skips, x = encoded(image)
    x = rectified(x, "bottom")
    for step, skip in enumerate(skips[::-1]):
        larger = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        x = node("Concat", node("Resize", x, "", "double", **larger), skip, axis=1)
        for layer in range(4):
            x = rectified(x, f"ups.{step}.merge.{layer}")
    for name in ("weight", "bias"):
        constants[f"head.{name}"] = state[f"head.{name}"]
    node("Squeeze", node("Conv", x, "head.weight", "head.bias", pads=[1] * 4), "first", output="logits")
    graph = helper.make_graph(
        nodes,
        "parsing_unet",
        [helper.make_tensor_value_info("crop", TensorProto.UINT8, [size, size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [len(LOGITS), size // 2, size // 2])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
