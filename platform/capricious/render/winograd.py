"""3×3 convolutions with fewer multiplications (Winograd 1980; Lavin & Gray 2016, arXiv:1509.09308), for CPUs.

F(m×m, 3×3) makes m×m outputs from (m+2)×(m+2) inputs with (m+2)² instead of 9·m² products a channel pair: 2.25 times
fewer for m = 2, 4 times fewer for m = 4. The products become (m+2)² matrix products over all tiles of a batch, which
is what a CPU does best. oneDNN has no Winograd for AVX2, so the wide layers at low resolution gain most, and they are
half of the generator's arithmetic. The transforms cost additions on every channel: narrow layers gain nothing.

In float32 the largest error at 1024 channels is 3e-6 for m = 2, less than that of torch's own convolution (2e-5), and
5e-5 for m = 4; of a whole picture 1.6e-5, beside 1.1e-5 with torch's own (benchmarks/results/sweep.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

# Lavin & Gray, §4.1 and §4.3: Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A.
_INPUT = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
_KERNEL = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
_OUTPUT = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}
SIZES = tuple(_INPUT)


class WinogradConvolution:
    """A 3×3 convolution with zero padding by F(m×m, 3×3); equals `convolution` up to rounding.

    Args:
        convolution: 3×3, stride 1, padding 1, float32 weights. They are copied: (m+2)²/9 times their size.
        size: m, of SIZES.
    """

    def __init__(self, convolution: nn.Conv2d, size: int):
        if convolution.kernel_size != (3, 3) or convolution.padding != (1, 1) or convolution.stride != (1, 1):
            raise ValueError(f"Winograd's algorithm here is for 3×3, stride 1, padding 1, found: {convolution}")
        if size not in SIZES:
            raise ValueError(f"size must be one of {SIZES}, found: {size}")
        self.size, self.tile = size, size + 2
        device = convolution.weight.device
        kernel, before, after = (torch.tensor(m[size], dtype=torch.float64) for m in (_KERNEL, _INPUT, _OUTPUT))
        weight = convolution.weight.double().cpu()
        # In float64: the weights are transformed once, and their rounding would be in every picture.
        weights = torch.einsum("ij,ocjk,lk->ilco", kernel, weight, kernel).flatten(0, 1)
        self.weights = weights.float().contiguous().to(device)  # T²×C×O
        self.before = torch.kron(before, before).float().to(device)  # T²×T²
        self.after = torch.kron(after, after).float().to(device)  # m²×T²
        self.bias = convolution.bias

    def __call__(self, x: Tensor) -> Tensor:
        """x: B×C×H×W float32, channels last, H and W multiples of m. Returns B×O×H×W, channels last."""
        batch, channels, height, width = x.shape
        down, across = height // self.size, width // self.size
        padded = pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
        one, row, column, _ = padded.stride()
        shape = (self.tile, self.tile, batch, down, across, channels)
        tiles = padded.as_strided(shape, (row, column, one, row * self.size, column * self.size, 1))
        transformed = self.before @ tiles.reshape(self.tile**2, -1)
        products = torch.bmm(transformed.view(self.tile**2, -1, channels), self.weights)
        outputs = self.after @ products.view(self.tile**2, -1)
        outputs = outputs.view(self.size, self.size, batch, down, across, -1).permute(2, 3, 0, 4, 1, 5)
        y = outputs.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        return y if self.bias is None else y + self.bias[:, None, None]
