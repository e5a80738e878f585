"""Who a picture shows, differentiable: OpenFace's network (CMU, Apache-2.0) as a judge of likeness in training.

nn4.small2 of Amos et al. 2016 ("OpenFace: A general-purpose face recognition library with mobile applications"), after
FaceNet (arXiv:1503.03832): 3.7 million weights, learnt of CASIA-WebFace and FaceScrub. The evaluation judges with
others' networks, that learnt of others' photographs (docs/model.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, normalize, pad, relu

from capricious import weights
from capricious.errors import CapriciousError
from capricious.model.estimator import square

INPUT = 96

FACE_CENTRE = (0.5, 0.65)
FACE_SIDE = 0.55
"""The square from brows to chin in the aligned crop, as shares of its side; OpenFace's own chip holds just this.

Chosen on 200 of our training portraits (128 px): d′ between a portrait beside its mirror image and different sitters is
3.9 here, and falls below 3.5 with heights 0.55 and 0.71 or sides 0.45 and 0.7; so does the agreement with faceres about
who resembles whom (correlation 0.50).
"""

EPSILON = 1e-5
"""Of the batch norms, which are folded into the convolutions."""


class _Inception(nn.Module):
    """Branches of 3×3 and 5×5 convolutions, a pool and a 1×1 convolution, one beside the other.

    Args:
        threes, fives: channels within and out of the branch.
        pooled, ones: channels of the 1×1 convolutions after the pool and alone; None leaves the pool as it is, and
            leaves the branch out.
    """

    def __init__(
        self,
        inputs: int,
        threes: tuple[int, int],
        fives: tuple[int, int] | None,
        pooled: int | None,
        ones: int | None,
        pool: Callable[[Tensor], Tensor],
        stride: int = 1,
    ):
        super().__init__()
        self.pool = pool
        layers = {
            "3x3_conv1": nn.Conv2d(inputs, threes[0], 1),
            "3x3_conv2": nn.Conv2d(*threes, 3, stride, padding=1),
        }
        if fives:
            layers["5x5_conv1"] = nn.Conv2d(inputs, fives[0], 1)
            layers["5x5_conv2"] = nn.Conv2d(*fives, 5, stride, padding=2)
        if pooled:
            layers["pool_conv"] = nn.Conv2d(inputs, pooled, 1)
        if ones:
            layers["1x1_conv"] = nn.Conv2d(inputs, ones, 1)
        # Names are those of the stored weights.
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        def through(name: str, y: Tensor) -> Tensor:
            return relu(self.layers[name](y))

        branches = [through("3x3_conv2", through("3x3_conv1", x))]
        if "5x5_conv1" in self.layers:
            branches.append(through("5x5_conv2", through("5x5_conv1", x)))
        pooled = self.pool(x)
        if "pool_conv" in self.layers:
            pooled = through("pool_conv", pooled)
        missing = branches[0].shape[-1] - pooled.shape[-1]
        before, after = missing // 2, missing - missing // 2
        branches.append(pad(pooled, (before, after, before, after)))
        if "1x1_conv" in self.layers:
            branches.append(through("1x1_conv", x))
        return torch.cat(branches, 1)


def _halving(x: Tensor) -> Tensor:
    return max_pool2d(x, 3, stride=2)


def _root_of_squares(x: Tensor) -> Tensor:
    """The L2 norm over 3×3 squares, beside each other. In float32: squares overflow what half precision resolves."""
    return (9.0 * avg_pool2d(x.float().square(), 3, stride=3) + 1e-12).sqrt().to(x.dtype)


class OpenFace(nn.Module):
    """Frozen recognizer; gradients flow to the picture. Fetches its 15 MB of weights on construction.

    The local response normalization of the original changes nothing that could be seen in its embeddings, and is left
    out.

    Raises:
        CapriciousError: the weights cannot be had (see `weights.fetch`) or are not those of this network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(3, 64, 7, stride=2, padding=3),
                "conv2": nn.Conv2d(64, 64, 1),
                "conv3": nn.Conv2d(64, 192, 3, padding=1),
            }
        )
        self.blocks = nn.ModuleDict(
            {
                "3a": _Inception(192, (96, 128), (16, 32), 32, 64, _halving),
                "3b": _Inception(256, (96, 128), (32, 64), 64, 64, _root_of_squares),
                "3c": _Inception(320, (128, 256), (32, 64), None, None, _halving, stride=2),
                "4a": _Inception(640, (96, 192), (32, 64), 128, 256, _root_of_squares),
                "4e": _Inception(640, (160, 256), (64, 128), None, None, _halving, stride=2),
                "5a": _Inception(1024, (96, 384), None, 96, 256, _root_of_squares),
                "5b": _Inception(736, (96, 384), None, 96, 256, _halving),
            }
        )
        self.dense = nn.Linear(736, 128)
        self._load()
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Returns B×128 unit vectors, float32; the cosine of two says how alike the sitters are.

        Different sitters of ours have 0.18 ± 0.27, a portrait has 0.95 with its mirror image.

        Args:
            image: B×3×S×S RGB in −1…1, aligned crops as `faces.align` makes them.
        """
        face = square(image, FACE_CENTRE, FACE_SIDE).float()
        return self.embed(interpolate(face, (INPUT, INPUT), mode="bilinear", antialias=True))

    def embed(self, face: Tensor) -> Tensor:
        """As forward(), for B×3×96×96 pictures that are already cut to the face."""
        x = (face + 1.0) / 2.0
        x = max_pool2d(relu(self.entry["conv1"](x)), 3, stride=2, padding=1)
        for name in ("conv2", "conv3"):
            x = relu(self.entry[name](x))
        x = max_pool2d(x, 3, stride=2, padding=1)
        for block in self.blocks.values():
            x = block(x)
        return normalize(self.dense(x.mean((2, 3))).float())

    def _load(self) -> None:
        import h5py  # not on a bare GPU machine, which can train without this judge

        path = weights.fetch("openface")
        with h5py.File(path) as stored:
            try:
                for name, layer in self._stored_layers():
                    layer.load_state_dict(_folded(stored, name))
                # Input, output.
                kernel, bias = (stored[f"dense/dense/{part}:0"][()] for part in ("kernel", "bias"))
                self.dense.load_state_dict({"weight": torch.from_numpy(kernel.T), "bias": torch.from_numpy(bias)})
            except (KeyError, RuntimeError) as error:
                raise CapriciousError(f"{path} is not the network that OpenFace is: {error}") from None

    def _stored_layers(self) -> list[tuple[str, nn.Module]]:
        layers = list(self.entry.items())
        for name, block in self.blocks.items():
            assert isinstance(block, _Inception)
            layers += [(f"inception_{name}_{part}", layer) for part, layer in block.layers.items()]
        return layers


def _folded(stored: Mapping[str, np.ndarray], convolution: str) -> dict[str, Tensor]:
    """Reads a convolution of Keras (height, width, input, output) with its batch norm folded in."""

    def read(layer: str, *parts: str) -> list[Tensor]:
        return [torch.from_numpy(stored[f"{layer}/{layer}/{part}:0"][()]) for part in parts]

    weight, bias = read(convolution, "kernel", "bias")
    gamma, beta, mean, variance = read(
        convolution.replace("conv", "bn"), "gamma", "beta", "moving_mean", "moving_variance"
    )
    scale = gamma / (variance + EPSILON).sqrt()
    return {"weight": (weight * scale).permute(3, 2, 0, 1), "bias": (bias - mean) * scale + beta}
