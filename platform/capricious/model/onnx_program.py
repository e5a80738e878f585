"""Networks as ONNX programs: on a CPU, ONNX Runtime folds batch norms and takes about half of torch's time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch
from torch import nn


def onnx_session(program: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """Opens a network, a file or its bytes, to be run with so many threads: Ray gives an actor one CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    source = program if isinstance(program, bytes) else str(program)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def as_onnx(network: nn.Module, size: int, outputs: Sequence[str], *, any_batch: bool = False) -> bytes:
    """Returns a network of pictures as an ONNX program with the input "image", B×3×size×size float32.

    Args:
        outputs: names of what the network returns, in order.
        any_batch: B may be any number; else it is 1, for which ONNX Runtime prepares a little better.
    """
    program = io.BytesIO()
    names = ["image", *outputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further packages is called legacy
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, size, size),),
            program,  # type: ignore[arg-type]  # any file will do, says its documentation
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "batch"} for name in names} if any_batch else None,
            dynamo=False,
        )
    return program.getvalue()
