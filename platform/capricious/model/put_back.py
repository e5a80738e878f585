"""A change that the network made, put back into the portrait, at the network's own resolution."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d

from capricious.faces.label_map import BACKGROUND


def put_back(portrait: Tensor, label_map: Tensor, change: Tensor) -> Tensor:
    """Returns portrait + mask · change, B×3×R×R in −1…1, differentiable.

    What render/composite.py does in mode "difference", where nothing has to be enlarged: the sitter's likeness is the
    portrait's, and the network answers for the change alone.

    Args:
        portrait: B×3×R×R in −1…1.
        label_map: B×R×R; the mask is everything but background, its edge a pixel soft.
        change: B×3×R×R, of two renders the difference, or what a refinement network made of it.
    """
    sitter = (label_map != BACKGROUND).unsqueeze(1).to(portrait.dtype)
    mask = avg_pool2d(sitter, 3, 1, 1, count_include_pad=False)
    return (portrait + mask * change.to(portrait.dtype)).clamp(-1.0, 1.0)
