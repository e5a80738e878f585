"""Reading the weights of npm's face-api (TensorFlow.js, quantised) in the layout of torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from capricious.weights.tfjs import read_tfjs


def read_face_api(manifest: Path, binary: Path) -> dict[str, np.ndarray]:
    """Reads weights in the layout of TensorFlow.js under the names and in the shapes that torch has for them; float32.

    A separable convolution `c` becomes `c.depthwise` and `c.pointwise`, of which the second has the bias.

    Raises:
        CapriciousError: the binary is shorter or longer than the manifest says.
    """
    arrays = read_tfjs(json.loads(manifest.read_text(encoding="utf-8")), binary)
    separable = {_split(name)[0] for name in arrays if name.endswith("/depthwise_filter")}
    state = {}
    for stored, values in arrays.items():
        path, kind = _split(stored)
        name, value = _to_torch(path, kind, values, path in separable)
        state[name] = np.ascontiguousarray(value)
    return state


def _split(name: str) -> tuple[str, str]:
    """Returns the layer's dotted name and the kind of the array."""
    path, _, kind = name.rpartition("/")
    return path.replace("/", "."), kind


def _to_torch(path: str, kind: str, value: np.ndarray, separable: bool) -> tuple[str, np.ndarray]:
    if kind == "depthwise_filter":  # height, width, channel, 1
        return f"{path}.depthwise.weight", value.transpose(2, 3, 0, 1)
    if kind == "pointwise_filter":  # height, width, input, output
        return f"{path}.pointwise.weight", value.transpose(3, 2, 0, 1)
    if kind == "filters":
        return f"{path}.weight", value.transpose(3, 2, 0, 1)
    if kind == "weights":  # input, output
        return f"{path}.weight", value.T
    return (f"{path}.pointwise.{kind}" if separable else f"{path}.{kind}"), value
