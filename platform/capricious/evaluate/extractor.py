"""What all networks that look at pictures for a measurement have in common."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

BATCH = 8
"""Pictures of one call of a network: fewer cost more each, more cost only memory."""


def in_batches(
    images: np.ndarray,
    size: int,
    run: Callable[[np.ndarray], Sequence[np.ndarray]],
    shapes: Sequence[tuple[int, ...]],
) -> list[np.ndarray]:
    """Runs a network over N pictures, `size` at a time; returns each of its outputs for all N.

    Args:
        shapes: of the outputs without their first axis, for the case that N is 0.
    """
    parts = [run(images[start : start + size]) for start in range(0, len(images), size)]
    if not parts:
        return [np.zeros((0, *shape), np.float32) for shape in shapes]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def as_onnx(network: nn.Module, size: int, outputs: Sequence[str]) -> bytes:
    """Returns a network of B×3×size×size float32 pictures as an ONNX program with the input "image", for any B.

    ONNX Runtime folds batch norms and takes about half of torch's time on a CPU.

    Args:
        outputs: names of what the network returns, in order.
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
            dynamic_axes={name: {0: "batch"} for name in names},
            dynamo=False,
        )
    return program.getvalue()
