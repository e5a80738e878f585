"""Our parser's network: the MobileNetV2-UNet of the paper, in a light form.

The encoder is MobileNetV2 (Sandler et al. 2018, table 2) without its last 1×1 convolution, in torchvision's
layout so that its ImageNet weights load strictly. The decoder climbs from 1/32 to 1/2 of the input as a U-Net
(Ronneberger et al. 2015), each step a separable convolution over the upsampled features and the encoder's of that
size. Its four logits are for background, skin, hair (softmax) and glasses (sigmoid): glasses lie on the skin.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from capricious.annotate.unet_graph import LOGITS, read_state
from capricious.errors import CapriciousError
from capricious.model.imagenet import IMAGENET_MEAN, IMAGENET_STD
from capricious.model.mobilenet_v2 import MobileNetV2, conv


class Up(nn.Module):
    """One step of the decoder: doubles the side and merges the encoder's features of that size."""

    def __init__(self, inputs: int, skip: int, outputs: int):
        super().__init__()
        self.merge = nn.Sequential(
            conv(inputs + skip, inputs + skip, groups=inputs + skip),
            conv(inputs + skip, outputs, 1),
            conv(outputs, outputs, groups=outputs),
            conv(outputs, outputs, 1),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.merge(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))


class ParsingUNet(nn.Module):
    """B×3×S×S image, ImageNet-normalised, S a multiple of 32 → B×4×S/2×S/2 LOGITS.

    Half the side is enough: a boundary is placed by interpolating the logits, finer than their grid.
    """

    WIDTHS = (128, 96, 64, 48, 32)
    """Channels of the decoder at 1/32, 1/16, 1/8, 1/4 and 1/2."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MobileNetV2()
        skips = MobileNetV2.CHANNELS[::-1]
        self.bottom = conv(skips[0], self.WIDTHS[0], 1)
        self.ups = nn.ModuleList(
            Up(inputs, skip, outputs)
            for inputs, skip, outputs in zip(self.WIDTHS, skips[1:], self.WIDTHS[1:], strict=False)
        )
        self.head = nn.Conv2d(self.WIDTHS[-1], len(LOGITS), 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = self.encoder(image)
        x = self.bottom(x)
        for up, skip in zip(self.ups, skips[::-1], strict=True):
            x = up(x, skip)
        return self.head(x)


def normalise(images: Tensor) -> Tensor:
    """B×3×S×S in 0…1 → ImageNet-normalised."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


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
    net = ParsingUNet()
    state = {name: torch.from_numpy(value) for name, value in read_state(path).items()}
    missing, unexpected = net.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CapriciousError(f"{path} is of another network: {(missing + unexpected)[0]} does not fit")
    return net.eval().requires_grad_(False)
