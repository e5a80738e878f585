"""Running ONNX networks on the CPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime


def onnx_session(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """Opens a network, a file or its bytes, to be run with so many threads: Ray gives an actor one CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
