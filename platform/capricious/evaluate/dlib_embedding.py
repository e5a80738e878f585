"""A second opinion on identity: dlib's ResNet (King 2017), 128 numbers, by Euclidean distance."""

from __future__ import annotations

import cv2
import dlib
import numpy as np

from capricious import weights

CHIP, PADDING = 150, 0.25
_SCALE = 256
"""Crops are brought to this side first: dlib takes landmarks at whole pixels only."""


class DlibEmbedding:
    """Embeds faces of aligned crops. Fetches its 22 MB of weights on construction.

    Raises:
        CapriciousError: the weights cannot be had (see `weights.fetch`).
    """

    name = "dlib-face-embedding"

    def __init__(self) -> None:
        self.sha256 = weights.get("dlib-face-embedding").sha256
        self._network = dlib.face_recognition_model_v1(str(weights.fetch("dlib-face-embedding")))

    def __call__(self, images: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Returns N×128 float32 of N×R×R×3 uint8 crops of one sitter, with 68×2 landmarks in pixels of the crop."""
        if not len(images):
            return np.zeros((0, 128), np.float32)
        scale = _SCALE / images.shape[1]
        marks = dlib.points([dlib.point(int(x), int(y)) for x, y in np.rint(points * scale - 0.5)])
        face = dlib.full_object_detection(dlib.rectangle(0, 0, _SCALE - 1, _SCALE - 1), marks)
        chips = []
        for image in images:
            large = cv2.resize(image, (_SCALE, _SCALE), interpolation=cv2.INTER_CUBIC)
            chips.append(dlib.get_face_chip(np.ascontiguousarray(large), face, size=CHIP, padding=PADDING))
        found = self._network.compute_face_descriptor(np.stack(chips))
        return np.array(found, np.float32)
