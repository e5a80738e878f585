"""Reading an aligned crop again, as prepare would: which label map and which glasses a render shows."""

from __future__ import annotations

import cv2
import numpy as np

from capricious.annotate.annotator import only_the_sitter
from capricious.annotate.attributes import wears_glasses
from capricious.annotate.finder import FaceFinder
from capricious.annotate.unet_parser import UNetParser
from capricious.faces.align import shrink
from capricious.faces.label_map import label_map, resize_label_map


class CropReader:
    """Finds the face of an aligned crop and parses it, without aligning anew. Loads its weights once."""

    def __init__(self, threads: int = 1):
        # Patient detectors search whole paintings; here the face is where it should be, or it is none.
        self._finder = FaceFinder("blazeface", threads=threads)
        self._parser = UNetParser(threads=threads)

    def __call__(self, crop: np.ndarray) -> tuple[np.ndarray, bool] | None:
        """Returns the label map (R×R uint8) of an R×R×3 uint8 crop and whether it shows glasses; None without a face.

        R is at most the parser's 256 px or a multiple of it.
        """
        size, side = crop.shape[0], self._parser.size
        large = crop
        if size < side:
            large = cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)
        elif size > side:
            large = shrink(crop, side)
        located, _ = self._finder.find(large)
        if not located:
            return None
        points = located[0].points.astype(np.float64) * size / side
        parsed = self._parser.parse(large)
        parts = only_the_sitter(resize_label_map(parsed.labels, size), points)
        return label_map(parts, points), wears_glasses(parsed)
