"""Perceptual loss: L1 between VGG features of two pictures (Johnson et al. 2016, as in pix2pixHD).

SPADE takes VGG19 from torchvision, whose host is often out of reach; the default is Oxford's own VGG16 (Caffe), which
comes from a package registry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, max_pool2d, relu

from capricious import weights
from capricious.errors import CapriciousError
from capricious.model.imagenet import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Vgg:
    """One of the networks.

    Attributes:
        stages: what lies before each compared layer: c a convolution with ReLU, p a max pool.
        layer_weights: of the compared layers.
        activations: mean activation of each compared layer, by which it is divided.
        bgr: channels in the order of Caffe.
        scale, means, deviations: x → ((x + 1) · scale − means) / deviations, x in −1…1.
    """

    stages: tuple[str, ...]
    layer_weights: tuple[float, ...]
    activations: tuple[float, ...]
    bgr: bool
    scale: float
    means: tuple[float, float, float]
    deviations: tuple[float, float, float]

    @property
    def convolutions(self) -> int:
        """Number of convolutions up to the last compared layer."""
        return sum(stage.count("c") for stage in self.stages)


NETWORKS = {
    # Compared: relu1_2, 2_2, 3_3, 4_3. Block 5 of the file may have been fine-tuned, so the fifth layer of SPADE's
    # loss (weight 1) has no counterpart. Activations over 80 photographed faces (AAF and UTKFace, 128 px): divided by
    # them, features are of the order of those that SPADE's weight of 10 was chosen for. Measured then, relu1_2 …
    # relu4_3: L1 1.1 1.4 1.5 1.6 between two sitters; 0.14 0.24 0.35 0.45 after a 3×3 box blur.
    "vgg16": Vgg(
        stages=("cc", "pcc", "pccc", "pccc"),
        layer_weights=(1 / 32, 1 / 16, 1 / 8, 1 / 4),
        activations=(108.3, 191.8, 201.6, 29.4),
        bgr=True,
        scale=127.5,
        means=(103.939, 116.779, 123.68),
        deviations=(1.0, 1.0, 1.0),
    ),
    # SPADE's own: relu1_1, 2_1, 3_1, 4_1, 5_1 of torchvision's VGG19, as they come.
    "vgg19": Vgg(
        stages=("c", "cpc", "cpc", "cccpc", "cccpc"),
        layer_weights=(1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0),
        activations=(1.0,) * 5,
        bgr=False,
        scale=0.5,
        means=IMAGENET_MEAN,
        deviations=IMAGENET_STD,
    ),
}


class PerceptualLoss(nn.Module):
    """Frozen; the weights are fetched on construction (VGG16 65 MB, VGG19 575 MB on the first time).

    Args:
        network: one of NETWORKS.

    Raises:
        CapriciousError: the weights cannot be had (see `weights.fetch`), or the file lacks a layer.
    """

    def __init__(self, network: str = "vgg16") -> None:
        super().__init__()
        self.network = NETWORKS[network]
        kernels = _read_vgg16() if network == "vgg16" else _read_vgg19()
        self.layers = nn.ModuleList()
        for weight, bias in kernels[: self.network.convolutions]:
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            layer.load_state_dict({"weight": weight, "bias": bias})
            self.layers.append(layer)
        self.means: Tensor
        self.deviations: Tensor
        self.register_buffer("means", torch.tensor(self.network.means).view(3, 1, 1), persistent=False)
        self.register_buffer("deviations", torch.tensor(self.network.deviations).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the compared layers of B×3×H×W RGB pictures in −1…1; VGG16's have a mean activation of about 1."""
        x = image.flip(1) if self.network.bgr else image
        x = ((x + 1.0) * self.network.scale - self.means) / self.deviations
        layers = iter(self.layers)
        features = []
        for stage, activation in zip(self.network.stages, self.network.activations, strict=True):
            for part in stage:
                x = max_pool2d(x, 2) if part == "p" else relu(next(layers)(x))
            features.append(x / activation)
        return features

    def compare(self, fake: list[Tensor], real: list[Tensor]) -> Tensor:
        """Returns the scalar loss between the features of two batches, a mean over the batch, float32."""
        pairs = zip(self.network.layer_weights, fake, real, strict=True)
        return torch.stack([weight * l1_loss(f.float(), r.float()) for weight, f, r in pairs]).sum()

    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Returns the scalar loss between two batches of pictures; no gradient flows into `real`."""
        with torch.no_grad():
            wanted = self(real)
        return self.compare(self(fake), wanted)


def _read_vgg16() -> list[tuple[Tensor, Tensor]]:
    """Reads weight (out×in×3×3) and bias of each convolution from the ONNX file's initialisers."""
    import onnx  # not on a bare GPU machine, which can train without this loss
    from onnx import numpy_helper

    path = weights.fetch("vgg16-conv")
    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}

    def read(name: str) -> Tensor:
        if name not in stored:
            raise CapriciousError(f"{path} has no initialiser {name}; it is not the VGG16 that this loss knows")
        return torch.from_numpy(numpy_helper.to_array(stored[name]).copy())

    prefix = "functional_1/"
    names = [
        f"{prefix}block{block}_conv{k}" for block, depth in enumerate((2, 2, 3, 3), 1) for k in range(1, depth + 1)
    ]
    return [(read(f"{n}_1/convolution/ReadVariableOp:0"), read(f"{n}_1/Squeeze:0")) for n in names]


def _read_vgg19() -> list[tuple[Tensor, Tensor]]:
    """Reads the same of torchvision's VGG19, in which convolution k is features.N for the N of the k-th weight."""
    path = weights.fetch("vgg19")
    state = torch.load(path, map_location="cpu", weights_only=True)
    names = sorted(int(key.split(".")[1]) for key in state if key.startswith("features.") and key.endswith(".weight"))
    if len(names) != 16:
        raise CapriciousError(f"{path} has {len(names)} convolutions, not the 16 of VGG19")
    return [(state[f"features.{n}.weight"], state[f"features.{n}.bias"]) for n in names]
