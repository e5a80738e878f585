"""Reading the weights of npm's face-api (TensorFlow.js, quantised) in the layout of torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from capricious.errors import CapriciousError


def read_face_api(manifest: Path, binary: Path) -> dict[str, np.ndarray]:
    """Reads weights in the layout of TensorFlow.js under the names and in the shapes that torch has for them; float32.

    The binary holds one array after another in the manifest's order, each raw float32 or quantised:
    value = min + scale · stored. A separable convolution `c` becomes `c.depthwise` and `c.pointwise`, of
    which the second has the bias.

    Raises:
        CapriciousError: the binary is shorter or longer than the manifest says.
    """
    entries = [entry for group in json.loads(manifest.read_text(encoding="utf-8")) for entry in group["weights"]]
    separable = {_split(entry["name"])[0] for entry in entries if entry["name"].endswith("/depthwise_filter")}
    content, at, state = binary.read_bytes(), 0, {}
    for entry in entries:
        quantization = entry.get("quantization")
        dtype = np.dtype((quantization or entry)["dtype"]).newbyteorder("<")
        count = int(np.prod(entry["shape"]))
        if at + count * dtype.itemsize > len(content):
            raise CapriciousError(f"{binary} ends before {entry['name']}, which {manifest.name} lists")
        values = np.frombuffer(content, dtype, count, at).astype(np.float32)
        at += count * dtype.itemsize
        if quantization:
            values = values * np.float32(quantization["scale"]) + np.float32(quantization["min"])
        path, kind = _split(entry["name"])
        name, value = _to_torch(path, kind, values.reshape(entry["shape"]), path in separable)
        state[name] = np.ascontiguousarray(value)
    if at != len(content):
        raise CapriciousError(f"{binary} has {len(content) - at} bytes more than {manifest.name} lists")
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
