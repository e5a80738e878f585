"""Our parser at work: the distilled MobileNetV2-UNet, from the weights that ship with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from capricious.annotate.parsing import Parsing
from capricious.annotate.unet_graph import read_state, unet_graph
from capricious.errors import CapriciousError
from capricious.faces.label_map import BACKGROUND, HAIR, SKIN
from capricious.model.onnx_session import onnx_session

WEIGHTS = Path(__file__).with_name("parser") / "parser.safetensors"
"""The shipped weights; MODEL_CARD.md beside them says what they were made from and how good they are."""


class UNetParser:
    """Parses 256×256 crops by our own network, ten to twenty times faster than its teacher.

    On a CPU the network runs in ONNX Runtime, in half of torch's time; on a GPU in torch.

    Raises:
        CapriciousError: the weights are missing or of another network.
    """

    size = 256

    def __init__(self, device: str = "cpu", threads: int = 1, path: Path = WEIGHTS):
        self._run = _in_onnx(path, self.size, threads) if device == "cpu" else _in_torch(path, device)

    def parse(self, crop: np.ndarray) -> Parsing:
        """Parses a 256×256×3 uint8 crop.

        Raises:
            ValueError: the crop has another shape.
        """
        if crop.shape != (self.size, self.size, 3):
            raise ValueError(f"crop must be {self.size}×{self.size}×3, found: {crop.shape}")
        return parsing_of(self._run(np.ascontiguousarray(crop)))


def _in_onnx(path: Path, size: int, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    try:
        graph = unet_graph(read_state(path), size)
    except KeyError as error:
        raise CapriciousError(f"{path} is of another network: it has no {error}") from None
    session = onnx_session(graph.SerializeToString(), threads)
    return lambda crop: session.run(["logits"], {"crop": crop})[0]


def _in_torch(path: Path, device: str) -> Callable[[np.ndarray], np.ndarray]:
    import torch  # takes seconds to load, and the CPU does without

    from capricious.annotate.unet import load_unet, normalise

    net = load_unet(path).to(device)

    def run(crop: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            image = torch.from_numpy(crop).to(device).permute(2, 0, 1)[None].float() / 255.0
            return net(normalise(image))[0].cpu().numpy()

    return run


def parsing_of(logits: np.ndarray) -> Parsing:
    """Turns 4×S/2×S/2 logits (unet_graph.LOGITS) into a parsing of S×S.

    The logits, not the classes, are interpolated: that places a boundary between their grid's pixels.
    """
    size = 2 * logits.shape[1]
    background, skin, hair, glasses = (cv2.resize(plane, (size, size)) for plane in logits)
    labels = np.where(skin > background, SKIN, BACKGROUND)
    labels[hair > np.maximum(background, skin)] = HAIR
    return Parsing(labels.astype(np.uint8), glasses > 0.0)
