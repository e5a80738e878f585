"""The teacher at work: BiSeNet's nineteen classes as face, hair and background."""

from __future__ import annotations

import numpy as np
import torch

from capricious import weights
from capricious.annotate.bisenet import CLASSES, BiSeNet
from capricious.annotate.parsing import Parsing
from capricious.faces.label_map import BACKGROUND, HAIR, SKIN
from capricious.model.imagenet import IMAGENET_MEAN, IMAGENET_STD

# Classes of CelebAMask-HQ: 0 background, 1 skin, 2–3 brows, 4–5 eyes, 6 glasses, 7–8 ears, 9 earring,
# 10 nose, 11–13 mouth and lips, 14 neck, 15 necklace, 16 cloth, 17 hair, 18 hat. The paper's "face" ends
# at the jaw, so the neck is background, as are jewellery and all clothes.
_GLASSES = 6
_TO_THREE = np.full(CLASSES, BACKGROUND, np.uint8)
_TO_THREE[[1, 2, 3, 4, 5, _GLASSES, 7, 8, 10, 11, 12, 13]] = SKIN
_TO_THREE[17] = HAIR


class BiSeNetParser:
    """The teacher: BiSeNet-R18 of CelebAMask-HQ. Slow (about 0.2 s) and for research only.

    Good on photos and realistic paintings, poor on ukiyo-e and profiles. Its input must stay 512 px
    wide: at 256 px it collapses.
    """

    size = 512

    def __init__(self, device: str = "cpu", threads: int = 1):
        self._device = torch.device(device)
        self._threads = threads
        self._net = BiSeNet()
        path = weights.fetch("bisenet")
        self._net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        # channels_last: a fifth less time on a CPU.
        self._net.eval().requires_grad_(False).to(self._device)
        self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(IMAGENET_MEAN, device=self._device).view(3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD, device=self._device).view(3, 1, 1)

    def parse(self, crop: np.ndarray) -> Parsing:
        """Parses a 512×512×3 uint8 crop.

        Raises:
            ValueError: the crop has another shape.
        """
        classes = self._logits(crop).argmax(0).to(torch.uint8).cpu().numpy()
        return Parsing(labels=_TO_THREE[classes], glasses=classes == _GLASSES)

    def soft_labels(self, crop: np.ndarray) -> np.ndarray:
        """Returns what a student learns from: 512×512×3 float32 probabilities of skin, hair and glasses.

        Glasses are part of the skin's probability, too; the background has what skin and hair leave.

        Raises:
            ValueError: the crop has another shape.
        """
        classes = self._logits(crop).softmax(0).cpu().numpy()
        groups = (classes[_TO_THREE == SKIN].sum(0), classes[_TO_THREE == HAIR].sum(0), classes[_GLASSES])
        return np.stack(groups, axis=-1)

    def _logits(self, crop: np.ndarray) -> torch.Tensor:
        if crop.shape != (self.size, self.size, 3):
            raise ValueError(f"crop must be {self.size}×{self.size}×3, found: {crop.shape}")
        pixels = torch.from_numpy(np.ascontiguousarray(crop)).to(self._device).permute(2, 0, 1)
        image = ((pixels.float() / 255.0 - self._mean) / self._std)[None]
        image = image.contiguous(memory_format=torch.channels_last)
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)  # a setting of the whole process: put back what was there
        try:
            with torch.inference_mode():
                return self._net(image)[0]
        finally:
            torch.set_num_threads(threads)
