"""From one portrait and its renders to one row of measurements: all that the report is made of.

A subject is what is measured: "real" are the portraits themselves, every other is named after a bundle. The renders of
a subject are V pictures: first at the sitter's own age, then at each requested age.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from capricious import weights
from capricious.data.records import Face, Portrait
from capricious.errors import CapriciousError
from capricious.evaluate import leakage, masks, similarity
from capricious.evaluate.dlib_embedding import DlibEmbedding
from capricious.evaluate.faceres import Faceres
from capricious.evaluate.features import Features
from capricious.faces.align import to_crop
from capricious.faces.image import encode
from capricious.model.perceptual import PerceptualLoss

REAL = "real"

PUT_BACK = "put back"
"""The subject "NAME, put back" is what jobs/render.py and the service deliver of a bundle: the change of age, added to
the portrait (render/composite.py)."""

EXTRACTORS = {
    "faceres": ("faceres", "faceres-graph"),
    "features": ("mobilenetv2",),
    "dlib": ("dlib-face-embedding",),
    "perceptual": ("vgg16-conv",),
}
"""What measures, and the registered weights that it needs; the first is the one that names it."""

_floats = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("portrait", pa.string()),  # id in its dataset
        ("source_uri", pa.string()),
        ("medium", pa.string()),  # photograph | painting
        ("age", pa.float32()),  # of the sitter, null if unknown
        ("age_source", pa.string()),  # label | estimated
        ("gender", pa.float32()),
        ("gender_source", pa.string()),
        # Of each of the V pictures; nan where there is no value.
        ("estimated_age", _floats),
        ("male", _floats),  # probability
        ("cosine", _floats),  # of faceres' embedding with that of the original
        ("dlib_distance", _floats),  # of dlib's embedding to that of the original; youngest and oldest render only
        ("glasses", _floats),  # 0 or 1
        ("region_iou", _floats),  # nan where no face is found
        ("part_iou", _floats),
        ("background_change", _floats),  # against the first, levels
        ("roughness", pa.float32()),  # of the requested ages
        # Of the first picture against the original.
        ("psnr", pa.float32()),
        ("ssim", pa.float32()),
        ("perceptual", pa.float32()),
        ("embedding", pa.binary()),  # of the first picture by faceres, float16
        ("dlib_embedding", pa.binary()),  # of the first that was looked at, float32
        ("features", pa.binary()),  # V×1280 float16
        ("pictures", pa.list_(pa.binary())),  # WebP, for people
        ("maps", pa.list_(pa.binary())),  # PNG label maps as read from the pictures; null where no face is found
        ("given_map", pa.binary()),  # PNG
    ]
)


Read = Callable[[np.ndarray], tuple[np.ndarray, bool] | None]
"""Reads an R×R×3 uint8 crop as prepare would: its label map, R×R uint8, and whether it shows glasses; None where it
finds no face. (annotate.CropReader is one.)"""


def extractor_hashes(without: Collection[str] = ()) -> dict[str, str]:
    """Returns the sha256 of the weights of all EXTRACTORS but those to do without."""
    return {name: weights.get(needed[0]).sha256 for name, needed in EXTRACTORS.items() if name not in without}


def missing_extractors() -> dict[str, str]:
    """Tries to get the weights of all EXTRACTORS; returns those that cannot be had, with the reason.

    Raises:
        CapriciousError: none can be had.
    """
    missing = {}
    for name, needed in EXTRACTORS.items():
        try:
            for weight in needed:
                weights.fetch(weight)
        except CapriciousError as error:
            missing[name] = str(error)
    if len(missing) == len(EXTRACTORS):
        raise CapriciousError("no extractor can be had, nothing can be measured; the first: " + missing["faceres"])
    return missing


class Measurer:
    """Measures portraits and their renders. Loads its networks once; reuse it for many.

    Args:
        read: see Read.
        without: names of EXTRACTORS to do without; their figures are nan.
        threads: CPU threads of each network.
    """

    def __init__(self, read: Read, without: Collection[str] = (), threads: int = 1):
        self._read = read
        self._faceres = None if "faceres" in without else Faceres(threads)
        self._features = None if "features" in without else Features(threads)
        self._dlib = None if "dlib" in without else DlibEmbedding()
        self._perceptual = None if "perceptual" in without else PerceptualLoss()

    def real(self, portrait: Portrait, face: Face) -> dict[str, Any]:
        """Returns the row of the portrait itself, but for its medium, which a portrait does not know.

        Args:
            face: the portrait decoded, at the resolution of the evaluation.
        """
        known = portrait.attributes
        about = {
            "portrait": portrait.id,
            "source_uri": portrait.source_uri,
            "age": known.age,
            "age_source": portrait.attribute_source.get("age"),
            "gender": known.gender,
            "gender_source": portrait.attribute_source.get("gender"),
            "given_map": encode(face.label_map, "png"),
        }
        return self._row({"subject": REAL, **about}, face, face.image[None], None)

    def renders(self, subject: str, face: Face, pictures: np.ndarray, real: dict[str, Any]) -> dict[str, Any]:
        """Returns the row of a subject's renders of a portrait.

        Args:
            pictures: V×R×R×3 uint8 at the resolution of `face`.
            real: the portrait's own row.

        Raises:
            ValueError: the pictures have another shape.
        """
        if pictures.ndim != 4 or pictures.shape[1:] != face.image.shape:
            raise ValueError(f"pictures must be V×{face.image.shape}, found: {pictures.shape}")
        return self._row({**real, "subject": subject}, face, pictures, real)

    def _row(
        self, about: dict[str, Any], face: Face, pictures: np.ndarray, real: dict[str, Any] | None
    ) -> dict[str, Any]:
        row = {name: about.get(name) for name in SCHEMA.names}
        unknown = np.full(len(pictures), np.nan, np.float32)
        row.update(estimated_age=unknown, male=unknown, cosine=unknown, dlib_distance=unknown)
        if self._faceres:
            estimates = self._faceres(pictures)
            embedding = estimates.embedding.astype(np.float16)
            own = embedding[0] if real is None else np.frombuffer(real["embedding"], np.float16)
            row.update(
                estimated_age=estimates.age,
                male=estimates.male,
                cosine=estimates.embedding @ (own / np.linalg.norm(own.astype(np.float32))),
                embedding=embedding[0].tobytes(),
            )
        if self._dlib:
            # Six times as slow as faceres: of a sweep, the youngest and the oldest must do.
            looked = [0] if real is None else [1, len(pictures) - 1]
            described = self._dlib(pictures[looked], to_crop(face.landmarks, face.quad, face.image.shape[0]))
            own = described[0] if real is None else np.frombuffer(real["dlib_embedding"], np.float32)
            distance = unknown.copy()
            distance[looked] = np.linalg.norm(described - own, axis=1)
            row.update(dlib_distance=distance, dlib_embedding=described[0].tobytes())
        if self._features:
            row["features"] = self._features(pictures).astype(np.float16).tobytes()
        row.update(self._readings(face, pictures))
        row["background_change"] = leakage.background_change(pictures, pictures[0], face.label_map)
        row["roughness"] = leakage.roughness(pictures[1:])
        row["pictures"] = [encode(picture, "webp", quality=90) for picture in pictures]
        if not np.array_equal(pictures[0], face.image):  # else it is the original, and no reconstruction of it
            row.update(self._reconstruction(face.image, pictures[0]))
        return row

    def _readings(self, face: Face, pictures: np.ndarray) -> dict[str, Any]:
        found = [self._read(picture) for picture in pictures]
        given, nan = face.label_map, float("nan")
        return {
            "glasses": [nan if reading is None else float(reading[1]) for reading in found],
            "region_iou": [nan if reading is None else masks.region_iou(given, reading[0]) for reading in found],
            "part_iou": [nan if reading is None else masks.part_iou(given, reading[0]) for reading in found],
            "maps": [None if reading is None else encode(reading[0], "png") for reading in found],
        }

    def _reconstruction(self, original: np.ndarray, picture: np.ndarray) -> dict[str, float]:
        found = {"psnr": similarity.psnr(original, picture), "ssim": similarity.ssim(original, picture)}
        if self._perceptual:
            pair = torch.from_numpy(np.stack([picture, original]).transpose(0, 3, 1, 2) / np.float32(127.5) - 1.0)
            with torch.inference_mode():
                found["perceptual"] = float(self._perceptual.loss(pair[:1], pair[1:]))
        return found
