"""Features for distances between sets of pictures: MobileNetV2 of ImageNet, 1280 of them.

They are not Inception's, so what is made of them is a KID and a Fréchet distance "on mobilenetv2", never an FID.
"""

from __future__ import annotations

import cv2
import numpy as np

from capricious import weights
from capricious.evaluate.extractor import BATCH, as_onnx, in_batches
from capricious.model.imagenet import IMAGENET_MEAN, IMAGENET_STD
from capricious.model.mobilenet_v2 import FeatureNetwork, load_feature_network
from capricious.model.onnx_session import onnx_session

INPUT = 224
DIMENSIONS = FeatureNetwork.DIMENSIONS

_MEAN, _STD = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)


class Features:
    """MobileNetV2 up to its global average pool. Fetches its 14 MB of weights on construction.

    Raises:
        CapriciousError: the weights cannot be had (see `weights.fetch`) or are not those of this network.
    """

    name = "mobilenetv2"
    resize = "OpenCV, bicubic up and area down, to 224 px"

    def __init__(self, threads: int = 1):
        self.sha256 = weights.get("mobilenetv2").sha256
        self._session = onnx_session(as_onnx(load_feature_network(), INPUT, ["features"]), threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns N×1280 float32 of N×S×S×3 uint8 RGB pictures."""
        return in_batches(images, BATCH, self._run, ((DIMENSIONS,),))[0]

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        way = cv2.INTER_AREA if images.shape[1] > INPUT else cv2.INTER_CUBIC
        fitted = np.stack([cv2.resize(image, (INPUT, INPUT), interpolation=way) for image in images])
        values = (fitted.astype(np.float32) / 255 - _MEAN) / _STD
        return self._session.run(None, {"image": np.ascontiguousarray(values.transpose(0, 3, 1, 2))})
