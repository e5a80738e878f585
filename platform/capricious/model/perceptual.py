"""Perceptual loss: L1 between VGG16 features of two pictures (Johnson et al. 2016, as in pix2pixHD).

SPADE takes VGG19 from torchvision, whose host is often out of reach; these are Oxford's own VGG16
weights (Caffe), which come from a package registry.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, max_pool2d, relu

from capricious import weights
from capricious.errors import CapriciousError

CAFFE_MEANS = (103.939, 116.779, 123.68)
"""Of blue, green and red, in 0…255."""

BLOCKS = (2, 2, 3, 3)
"""Convolutions in each block; compared is the output of each block, before its max pool: relu1_2, relu2_2,
relu3_3, relu4_3. Block 5 of this file may have been fine-tuned, so the fifth layer of SPADE's loss
(weight 1) has no counterpart."""

LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4)

ACTIVATIONS = (108.3, 191.8, 201.6, 29.4)
"""Mean activation of each compared layer over 80 photographed faces (AAF and UTKFace, 128 px).

Features are divided by it, to be of mean 1: the order of those that SPADE's weight of 10 was chosen
for. Measured then, relu1_2 … relu4_3: L1 1.1 1.4 1.5 1.6 between two sitters; 0.14 0.24 0.35 0.45
after a 3×3 box blur."""


class PerceptualLoss(nn.Module):
    """Frozen; the weights are fetched on construction (65 MB on the first time).

    Raises:
        CapriciousError: the weights cannot be had (see `weights.fetch`), or the file lacks a layer.
    """

    def __init__(self) -> None:
        super().__init__()
        kernels = _read_kernels()
        self.blocks = nn.ModuleList()
        for block, depth in enumerate(BLOCKS, 1):
            layers = nn.ModuleList()
            for k in range(1, depth + 1):
                weight, bias = kernels[f"block{block}_conv{k}"]
                layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
                layer.load_state_dict({"weight": weight, "bias": bias})
                layers.append(layer)
            self.blocks.append(layers)
        self.means: Tensor
        self.register_buffer("means", torch.tensor(CAFFE_MEANS).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Returns the compared layers of B×3×H×W RGB pictures in −1…1, each of mean activation about 1."""
        x = (image + 1.0).mul(127.5).flip(1) - self.means
        features = []
        for i, block in enumerate(self.blocks):
            if i:
                x = max_pool2d(x, 2)
            for layer in block.children():
                x = relu(layer(x))
            features.append(x / ACTIVATIONS[i])
        return features

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """Returns the scalar loss, a mean over the batch; no gradient flows into `real`."""
        with torch.no_grad():
            wanted = self.features(real)
        losses = [
            weight * l1_loss(f, r) for weight, f, r in zip(LAYER_WEIGHTS, self.features(fake), wanted, strict=True)
        ]
        return torch.stack(losses).sum()


def _read_kernels() -> dict[str, tuple[Tensor, Tensor]]:
    """Reads weight (out×in×3×3) and bias of each convolution, by name, from the ONNX file's initialisers."""
    import onnx  # not on a bare GPU machine, which can train without this loss
    from onnx import numpy_helper

    path = weights.fetch("vgg16-conv")
    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}

    def read(name: str) -> Tensor:
        if name not in stored:
            raise CapriciousError(f"{path} has no initialiser {name}; it is not the VGG16 that this loss knows")
        return torch.from_numpy(numpy_helper.to_array(stored[name]).copy())

    names = [f"block{block}_conv{k}" for block, depth in enumerate(BLOCKS, 1) for k in range(1, depth + 1)]
    prefix = "functional_1/"
    return {
        name: (read(f"{prefix}{name}_1/convolution/ReadVariableOp:0"), read(f"{prefix}{name}_1/Squeeze:0"))
        for name in names
    }
