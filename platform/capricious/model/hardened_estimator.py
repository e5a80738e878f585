"""Age and gender of a picture as our own network sees them: a judge in training that is hard to please by tricks.

MobileNetV2 from ImageNet, taught the labels of our own training portraits (training/estimator.py) under changed
colours and hostile noise. A network that is taught so answers to what people see of age, and its gradient points there
(Tsipras et al., "Robustness May Be at Odds with Accuracy", 2019, §3); face-api's is pleased by a tint of the skin.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from capricious.errors import CapriciousError
from capricious.model.estimator import square
from capricious.model.imagenet import IMAGENET_MEAN, IMAGENET_STD
from capricious.model.mobilenet_v2 import FeatureNetwork

INPUT = 112
FACE_CENTRE = (0.5, 0.55)
FACE_SIDE = 0.8
"""What it sees of the aligned crop, as shares of its side: the face with hair and chin."""

AGES = 101
"""Ages 0…100 years, one class each: the estimate is their expectation."""


class HardenedEstimator(nn.Module):
    """Age classes and gender from the deepest features of MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.features = FeatureNetwork()
        self.age, self.gender = nn.Linear(FeatureNetwork.DIMENSIONS, AGES), nn.Linear(FeatureNetwork.DIMENSIONS, 1)
        self.means: Tensor
        self.deviations: Tensor
        self.register_buffer("means", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviations", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns B×AGES logits of the age and B logits of male, in float32.

        Args:
            image: B×3×S×S RGB in −1…1, aligned crops as `faces.align` makes them.
        """
        seen = interpolate(square(image, FACE_CENTRE, FACE_SIDE), (INPUT, INPUT), mode="bilinear")
        x = (seen + 1.0) / 2.0
        features = self.features((x - self.means) / self.deviations)
        return self.age(features).float(), self.gender(features).float().squeeze(1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (age in years, probability of male), each of shape B, of what `logits` takes."""
        ages, male = self.logits(image)
        return expected_age(ages), male.sigmoid()


def expected_age(logits: Tensor) -> Tensor:
    """Returns the expectation, in years, of B×AGES logits (Rothe et al., "DEX", 2015)."""
    ages = torch.arange(AGES, dtype=logits.dtype, device=logits.device)
    return (logits.softmax(1) * ages).sum(1)  # no matrix product: autocast would round the years to bfloat16


def load_hardened_estimator(path: str | Path) -> HardenedEstimator:
    """Reads what training/estimator.py wrote; frozen, in eval mode.

    Raises:
        CapriciousError: the file is missing or of another network.
    """
    network = HardenedEstimator()
    try:
        network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, RuntimeError) as error:
        raise CapriciousError(
            f"{path} is not a hardened estimator ({error}); python -m capricious.training.estimator makes one"
        ) from None
    return network.eval().requires_grad_(False)
