"""Our parser at work: the distilled MobileNetV2-UNet, from the weights that ship with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from capricious.annotate.parsing import Parsing
from capricious.annotate.unet import ParsingUNet
from capricious.errors import CapriciousError
from capricious.faces.label_map import BACKGROUND, HAIR, SKIN
from capricious.model.mobilenet_v2 import IMAGENET_MEAN, IMAGENET_STD
from capricious.model.onnx_program import as_onnx, onnx_session

WEIGHTS = Path(__file__).with_name("parser") / "parser.safetensors"
"""The shipped weights; MODEL_CARD.md beside them says what they were made from and how good they are."""

# ImageNet's normalisation of bytes, as one product and one difference.
_SCALE = np.float32(1.0) / (np.array(IMAGENET_STD, np.float32) * 255.0)
_SHIFT = np.array(IMAGENET_MEAN, np.float32) / np.array(IMAGENET_STD, np.float32)


class UNetParser:
    """Parses 256×256 crops by our own network, ten to twenty times faster than its teacher.

    On a CPU the network runs in ONNX Runtime, with batch normalisation folded into the convolutions: half the
    time of torch. On a GPU it runs in torch.
    """

    size = 256

    def __init__(self, device: str = "cpu", threads: int = 1, path: Path = WEIGHTS):
        net = load_unet(path)
        self._run = _in_onnx(net, self.size, threads) if device == "cpu" else _in_torch(net, torch.device(device))

    def parse(self, crop: np.ndarray) -> Parsing:
        """Parses a 256×256×3 uint8 crop.

        Raises:
            ValueError: the crop has another shape.
        """
        if crop.shape != (self.size, self.size, 3):
            raise ValueError(f"crop must be {self.size}×{self.size}×3, found: {crop.shape}")
        return parsing_of(self._run(np.ascontiguousarray((crop * _SCALE - _SHIFT).transpose(2, 0, 1)[None]))[0])


def _in_onnx(net: ParsingUNet, size: int, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    session = onnx_session(as_onnx(net, size, ["logits"]), threads)
    return lambda image: session.run(["logits"], {"image": image})[0]


def _in_torch(net: ParsingUNet, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    net = net.to(device)

    def run(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(image).to(device)).cpu().numpy()

    return run


def parsing_of(logits: np.ndarray) -> Parsing:
    """Turns 4×S/2×S/2 logits (unet.LOGITS) into a parsing of S×S.

    The logits, not the classes, are interpolated: that places a boundary between their grid's pixels.
    """
    size = 2 * logits.shape[1]
    background, skin, hair, glasses = (cv2.resize(plane, (size, size)) for plane in logits)
    labels = np.where(skin > background, SKIN, BACKGROUND)
    labels[hair > np.maximum(background, skin)] = HAIR
    return Parsing(labels.astype(np.uint8), glasses > 0.0)


def save_unet(state: dict[str, torch.Tensor], path: Path) -> None:
    """Writes weights as the package ships them: convolutions in half precision, which halves the file.

    Batch normalisation keeps single precision: its variances leave the range of half floats.
    """
    halved = {n: v.half() if v.ndim == 4 else v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in halved.items()}, path)


def load_unet(path: Path) -> ParsingUNet:
    """Reads what save_unet() wrote, in single precision and ready for inference.

    Raises:
        CapriciousError: the file is missing or of another network.
    """
    if not path.is_file():
        raise CapriciousError(f"the parser's weights are missing at {path}; train them with jobs/train_parser.py")
    net = ParsingUNet()
    state = {name: value.float() for name, value in load_file(path).items()}
    missing, unexpected = net.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CapriciousError(f"{path} is of another network: {(missing + unexpected)[0]} does not fit")
    return net.eval().requires_grad_(False)
