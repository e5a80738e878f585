"""Reading weights of TensorFlow.js: a JSON manifest and a binary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from capricious.errors import CapriciousError


def read_tfjs(manifest: Iterable[Mapping[str, Any]], binary: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a manifest (a list of groups, each with "weights") by name, all as float32.

    The binary holds one array after another in the manifest's order, raw, as half floats, or quantised:
    value = min + scale · stored.

    Raises:
        CapriciousError: the binary is shorter or longer than the manifest says.
    """
    content, at, arrays = binary.read_bytes(), 0, {}
    for entry in (entry for group in manifest for entry in group["weights"]):
        quantization = entry.get("quantization")
        dtype = np.dtype((quantization or entry)["dtype"]).newbyteorder("<")
        count = int(np.prod(entry["shape"]))
        if at + count * dtype.itemsize > len(content):
            raise CapriciousError(f"{binary} ends before {entry['name']}, which its manifest lists")
        values = np.frombuffer(content, dtype, count, at).astype(np.float32)
        at += count * dtype.itemsize
        if quantization and "scale" in quantization:
            values = values * np.float32(quantization["scale"]) + np.float32(quantization["min"])
        arrays[entry["name"]] = values.reshape(entry["shape"])
    if at != len(content):
        raise CapriciousError(f"{binary} has {len(content) - at} bytes more than its manifest lists")
    return arrays
