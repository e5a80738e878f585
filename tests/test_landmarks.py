"""Landmarks of the astronaut's face (public domain), upright, turned, mirrored and badly boxed."""

import os

import cv2
import numpy as np
import pytest
import skimage.data

from capricious import weights
from capricious.annotate.detect import BlazeFace, Detection
from capricious.annotate.landmarks import (
    MESH_TO_68,
    DlibLandmarks,
    FaceAlignment,
    FaceMesh,
    landmark_detector,
    needed_weights,
)

ASTRONAUT = skimage.data.astronaut()  # 512×512; her eyes lie near (204, 101) and (248, 104)
RIGHT_EYE, LEFT_EYE = np.array([204.0, 101.0]), np.array([248.0, 104.0])
EYE_DISTANCE = 44.0
# fmt: off
FLIP = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
]
# fmt: on


@pytest.fixture(scope="module")
def detection() -> Detection:
    (found,) = BlazeFace().detect(ASTRONAUT)
    return found


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh()


def eyes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points[36:42].mean(0), points[42:48].mean(0)


def off(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of landmarks in eye distances."""
    return float(np.linalg.norm(a - b, axis=1).mean() / EYE_DISTANCE)


def test_mesh_indices_are_mirror_images_of_each_other(mesh, detection):
    assert MESH_TO_68.shape == (68,) and len(set(MESH_TO_68)) == 68 and MESH_TO_68.max() < 468
    points = mesh.detect(ASTRONAUT, detection).points
    mirrored = np.ascontiguousarray(ASTRONAUT[:, ::-1])
    left, top, right, bottom = detection.box
    twin = Detection((512 - right, top, 512 - left, bottom), detection.score, -detection.roll)
    assert off(points, mesh.detect(mirrored, twin).points[FLIP] * [-1, 1] + [512, 0]) < 0.06


def test_mesh_and_dlib_agree(mesh, detection):
    found = [backend.detect(ASTRONAUT, detection) for backend in (mesh, DlibLandmarks(mesh))]
    for landmarks in found:
        assert landmarks.points.shape == (68, 2) and landmarks.points.dtype == np.float32 and landmarks.score > 0.9
        for eye, where in zip(eyes(landmarks.points), (RIGHT_EYE, LEFT_EYE), strict=True):
            assert eye == pytest.approx(where, abs=3)
    assert off(found[0].points[17:], found[1].points[17:]) < 0.07
    assert off(found[0].points[:17], found[1].points[:17]) < 0.12  # the jaw


@pytest.mark.parametrize("degrees", [-90, -40, 40, 180])
def test_mesh_follows_a_turned_head(mesh, degrees):
    box = (176, 78, 274, 175)
    upright = mesh.detect(ASTRONAUT, Detection(box, 0.9)).points
    turn = cv2.getRotationMatrix2D((226, 125), -degrees, 1.0)
    turned = cv2.warpAffine(ASTRONAUT, turn, (512, 512))
    found = mesh.detect(turned, Detection(box, 0.9, np.radians(degrees)))
    # OpenCV's matrix is for pixel centres at integers.
    expected = (upright - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5
    assert found.score > 0.9
    assert off(found.points, expected) < 0.06


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_mesh_makes_good_for_a_bad_box(mesh, detection, scale):
    middle, half = detection.centre + np.array([8, -6]), scale * detection.side / 2
    bad = Detection((*(middle - half), *(middle + half)), detection.score)
    found = mesh.detect(ASTRONAUT, bad)
    assert found.score > 0.9
    assert off(found.points[17:], mesh.detect(ASTRONAUT, detection).points[17:]) < 0.06


def test_mesh_looks_once_at_a_well_boxed_face_and_again_at_others(monkeypatch, detection):
    mesh, looks = FaceMesh(), []
    run = mesh._run
    monkeypatch.setattr(mesh, "_run", lambda image, box: looks.append(box) or run(image, box))

    def count(face: Detection) -> int:
        looks.clear()
        mesh.detect(ASTRONAUT, face)
        return len(looks)

    assert count(detection) == 1
    assert 2 <= count(Detection((146, 48, 304, 205), 0.9)) <= 4  # too large
    assert 3 <= count(Detection((380, 380, 480, 480), 0.9)) <= 4  # no face: other crops, too


@pytest.mark.parametrize("factor", [1, 3, 8])
def test_mesh_finds_the_same_points_in_an_enlarged_picture(mesh, detection, factor):
    side = 512 * factor
    large = cv2.resize(ASTRONAUT, (side, side), interpolation=cv2.INTER_CUBIC)
    box = tuple(factor * value for value in detection.box)
    found = mesh.detect(large, Detection(box, detection.score, detection.roll)).points / factor
    assert off(found, mesh.detect(ASTRONAUT, detection).points) < 0.02


def test_mesh_does_not_believe_in_a_box_without_a_face(mesh):
    assert mesh.detect(ASTRONAUT, Detection((380, 380, 480, 480), 0.9)).score < 0.5
    assert mesh.detect(ASTRONAUT, Detection((900, 900, 990, 990), 0.9)).score < 0.5  # outside
    assert mesh.detect(ASTRONAUT, Detection((100, 100, 100, 100), 0.9)).score < 0.5  # no area


def test_auto_takes_face_alignment_only_where_its_weights_are(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("CAPRICIOUS_WEIGHTS", raising=False)
    if weights.lookup(FaceAlignment.WEIGHT) is None:
        assert isinstance(landmark_detector("auto"), FaceMesh)
    made = []
    monkeypatch.setattr(weights, "lookup", lambda name: tmp_path)
    monkeypatch.setattr(
        "capricious.annotate.landmarks.FaceAlignment.__init__", lambda self, device: made.append(device)
    )
    assert isinstance(landmark_detector("auto"), FaceAlignment) and made == ["cpu"]
    assert needed_weights("auto") == (FaceAlignment.WEIGHT,)


def test_unknown_backends_are_named_with_the_known():
    with pytest.raises(ValueError, match="face-alignment, mesh, dlib, found: 'five'"):
        landmark_detector("five")


@pytest.fixture(scope="module")
def face_alignment(tmp_path_factory) -> FaceAlignment:
    """The package with a constructed state: random weights, so its points mean nothing, but the ways are real."""
    import numba
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba.config, "DISABLE_JIT", True)  # two functions that take a quarter of a minute to compile
        from face_alignment.models import FAN

    folder = tmp_path_factory.mktemp("weights")
    file = folder / weights.get(FaceAlignment.WEIGHT).upstream_file
    torch.manual_seed(0)
    torch.save(FAN(4).state_dict(), file)
    source = f"https://nowhere.invalid/{file.name}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            weights.REGISTRY,
            FaceAlignment.WEIGHT,
            weights.Weight(FaceAlignment.WEIGHT, "", 0, "", "", False, (source,)),
        )
        patch.setenv("CAPRICIOUS_WEIGHTS", str(folder))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        backend = FaceAlignment()
        assert os.path.islink(weights.torch_hub_folder() / file.name)
        assert isinstance(landmark_detector("auto"), FaceAlignment)
    return backend


def test_face_alignment_runs_the_package_from_seeded_weights(face_alignment, detection):
    found = face_alignment.detect(ASTRONAUT, detection)
    assert found.points.shape == (68, 2) and found.points.dtype == np.float32
    assert np.isfinite(found.points).all() and 0 <= found.score <= 1
    # A shifted picture is the same crop and must give the same points, shifted.
    larger = cv2.copyMakeBorder(ASTRONAUT, 40, 0, 64, 0, cv2.BORDER_CONSTANT)
    left, top, right, bottom = detection.box
    moved = Detection((left + 64, top + 40, right + 64, bottom + 40), detection.score, detection.roll)
    assert face_alignment.detect(larger, moved).points == pytest.approx(found.points + np.array([64, 40]), abs=0.01)


@pytest.mark.parametrize("degrees", [0, 40, -90, 180])
def test_face_alignment_takes_its_points_from_an_upright_crop(face_alignment, monkeypatch, degrees):
    """The network is replaced by one that knows a dot, which the head carries right above its centre."""
    picture = np.zeros((400, 500, 3), np.uint8)
    above = 30 * np.array([np.sin(np.radians(degrees)), -np.cos(np.radians(degrees))])
    dot = np.array([260.5, 210.5]) + np.round(above)
    cv2.circle(picture, np.floor(dot).astype(int).tolist(), 4, (255, 255, 255), -1)
    crops = []

    class Dot:
        def __call__(self, batch):
            crops.append(batch)
            heat = batch.mean(1, keepdim=True).reshape(1, 1, 64, 4, 64, 4).mean((3, 5))
            return heat.repeat(1, 68, 1, 1)

    monkeypatch.setattr(face_alignment._net, "face_alignment_net", Dot())
    found = face_alignment.detect(picture, Detection((210, 160, 311, 261), 0.9, np.radians(degrees)))
    assert found.points == pytest.approx(np.tile(dot, (68, 1)), abs=2.0)
    rows, columns = np.nonzero(crops[0][0].mean(0).numpy() > 0.5)
    assert columns.mean() == pytest.approx(128, abs=3) and rows.mean() < 128  # upright, whatever the roll
