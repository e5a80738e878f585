"""From 68 landmarks to an aligned square crop in the manner of FFHQ. The way back is render/unalign.py.

Coordinates are continuous (x, y) with pixel centres at half integers: the first pixel covers 0…1 and
its centre is 0.5, in the source picture as in the crop. A quad is 4×2: top left, bottom left, bottom
right and top right corner of the crop, in source pixels; it is a square at any angle.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from capricious.errors import Rejection

_FILTER_REACH = 6
"""Pixels beyond the quad that the filters may read, counted in the reduced picture."""


def quad_of(landmarks: np.ndarray) -> np.ndarray:
    """Returns the oriented crop square of FFHQ (Karras et al. 2018, appendix C, "FFHQ dataset").

    Args:
        landmarks: 68×2 float, iBUG order, source pixels.

    Returns:
        4×2 float32 corners TL, BL, BR, TR, which may lie outside of the picture.

    Raises:
        ValueError: the shape is wrong.
        Rejection: stage "landmarks", reason "not-finite" or "degenerate".
    """
    if landmarks.shape != (68, 2):
        raise ValueError(f"landmarks must be 68×2, found: {landmarks.shape}")
    points = landmarks.astype(np.float64)
    if not np.isfinite(points).all():
        raise Rejection("landmarks", "not-finite", "a landmark is NaN or infinite")
    left_eye, right_eye = points[36:42].mean(0), points[42:48].mean(0)
    eyes = (left_eye + right_eye) / 2
    eye_to_eye = right_eye - left_eye
    eye_to_mouth = (points[48] + points[54]) / 2 - eyes
    # Half the crop's upper edge: the mean of the eye line and the normal of the eye-mouth line, so
    # that neither a raised eye nor a crooked mouth alone tilts the crop.
    x = eye_to_eye - _rot90(eye_to_mouth)
    length = float(np.hypot(*x))
    half = max(2.0 * float(np.hypot(*eye_to_eye)), 1.8 * float(np.hypot(*eye_to_mouth)))
    if half < 1.0 or length < 1e-3 * half:
        raise Rejection("landmarks", "degenerate", "eyes and mouth coincide or contradict each other: no upright face")
    x *= half / length
    y = _rot90(x)
    centre = eyes + 0.1 * eye_to_mouth
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y]).astype(np.float32)


def _rot90(v: np.ndarray) -> np.ndarray:
    """Turns a vector from the x towards the y axis (clockwise on screen, where y points down)."""
    return np.array([-v[1], v[0]])


def side_of(quad: np.ndarray) -> float:
    """Returns the side of the quad in source pixels."""
    return float(np.hypot(*_frame(quad)[1]))


def _frame(quad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a quad's origin (top left) and its two edge vectors, float64, source pixels."""
    if quad.shape != (4, 2):
        raise ValueError(f"quad must be 4×2, found: {quad.shape}")
    corners = quad.astype(np.float64)
    with np.errstate(invalid="ignore"):
        right, down = corners[3] - corners[0], corners[1] - corners[0]
    if not np.isfinite(corners).all() or not right[0] * down[1] - right[1] * down[0] > 1e-6:
        raise Rejection("landmarks", "degenerate", f"the crop has no area, its corners: {quad.tolist()}")
    return corners[0], right, down


def to_source(points: np.ndarray, quad: np.ndarray, size: int) -> np.ndarray:
    """Maps N×2 points of a size×size crop to source pixels; float64."""
    origin, right, down = _frame(quad)
    return origin + np.asarray(points, np.float64) @ np.stack([right, down]) / size


def to_crop(points: np.ndarray, quad: np.ndarray, size: int) -> np.ndarray:
    """Maps N×2 points in source pixels to pixels of a size×size crop; float64, inverse of to_source."""
    origin, right, down = _frame(quad)
    return (np.asarray(points, np.float64) - origin) @ np.linalg.inv(np.stack([right, down])) * size


def inside_share(quad: np.ndarray, width: int, height: int) -> float:
    """Returns which share of the quad's area lies inside of a width×height picture, 0…1, exactly.

    The quad is clipped by the picture's four borders (Sutherland & Hodgman 1974) and measured by the
    shoelace formula.
    """
    _frame(quad)
    polygon = [(float(x), float(y)) for x, y in quad]
    whole = _area(polygon)
    for axis, limit, sign in ((0, 0.0, 1), (0, float(width), -1), (1, 0.0, 1), (1, float(height), -1)):
        clipped: list[tuple[float, float]] = []
        for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            depth_a, depth_b = sign * (a[axis] - limit), sign * (b[axis] - limit)
            if depth_a >= 0:
                clipped.append(a)
            if (depth_a > 0 > depth_b) or (depth_a < 0 < depth_b):
                t = depth_a / (depth_a - depth_b)
                clipped.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
        polygon = clipped
        if not polygon:
            return 0.0
    return min(1.0, _area(polygon) / whole)


def _area(polygon: list[tuple[float, float]]) -> float:
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in pairs)) / 2


def align(image: np.ndarray, quad: np.ndarray, size: int) -> np.ndarray:
    """Cuts the quad out of a picture, upright and antialiased.

    Only the part of the picture under the quad is read, so a small face in a huge painting is cheap.
    Where the quad leaves the picture the picture is mirrored and, further out, more and more softened,
    so that a network sees something plausible but nothing that looks like a second face.

    Args:
        image: H×W×3 uint8.
        quad: 4×2 corners as from quad_of().
        size: side of the crop in pixels.

    Returns:
        size×size×3 uint8.

    Raises:
        ValueError: a shape is wrong.
        Rejection: stage "landmarks", reason "degenerate" or "outside-picture".
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be H×W×3 uint8, found: {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    if inside_share(quad, width, height) == 0.0:
        raise Rejection("landmarks", "outside-picture", f"the face lies outside of the {width}×{height} picture")
    # From coarse to fine: box-reduce by a whole factor, warp at `oversampling` times the wanted size (at most
    # 1.5 of the pixels that are left for each sample), then take the mean of each block.
    scale = side_of(quad) / size
    factor = max(1, math.floor(scale / 1.5))
    oversampling = math.ceil(scale / factor / 1.5)

    reach = _FILTER_REACH * factor
    low = np.clip(np.floor(quad.min(0) - reach), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(quad.max(0) + reach), 0, (width, height)).astype(int)
    window = image[low[1] : high[1], low[0] : high[0]]
    if factor > 1:
        window = _reduce(window, factor)

    fine = size * oversampling
    corner, right, down = _frame(quad)
    crop_to_window = np.stack([right / (fine * factor), down / (fine * factor), (corner - low) / factor], axis=1)
    # OpenCV has pixel centres at integers, we at half integers.
    crop_to_window[:, 2] += crop_to_window[:, :2].sum(1) / 2 - 0.5
    crop = cv2.warpAffine(
        window.astype(np.float32, copy=False),
        crop_to_window,
        (fine, fine),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    if oversampling > 1:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    if (quad < 0).any() or (quad > (width, height)).any():
        crop = _soften(crop, outside_distance(quad, size, width, height) / (0.3 * side_of(quad)), window)
    return _to_uint8(crop)


def _reduce(window: np.ndarray, factor: int) -> np.ndarray:
    """Takes the mean of whole blocks of factor×factor pixels; what is left at the right and below is left out."""
    width, height = (max(1, side // factor) for side in window.shape[1::-1])
    if factor < 4:  # of bytes, OpenCV rounds ties up: a quarter of a level for blocks of two, an eighth for four
        window = window.astype(np.float32)
    return cv2.resize(window[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)


def outside_distance(quad: np.ndarray, size: int, width: int, height: int) -> np.ndarray:
    """Returns how far each crop pixel's centre lies outside of the picture, in source pixels; size×size float32."""
    corner, right, down = _frame(quad)
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    distance = np.zeros((size, size), np.float32)
    for axis, limit in ((0, width), (1, height)):
        if quad[:, axis].min() >= 0 and quad[:, axis].max() <= limit:
            continue
        position = (corner[axis] + right[axis] * at).astype(np.float32) + (down[axis] * at).astype(np.float32)[:, None]
        np.maximum(distance, np.maximum(-position, position - limit), out=distance)
    return distance


def _soften(crop: np.ndarray, outside: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Blurs a crop and then fades it to the picture's median colour with the distance from the picture.

    Args:
        crop: size×size×3 float32.
        outside: size×size float32: 0 in the picture, 1 where it has faded away.
        window: the picture, or the part of it near the crop.
    """
    # At distance d the blur takes over by s = min(3d, 1), then the colour by d. Together they hide the crop by
    # 1 − (1 − d)(1 − s), of which the colour has the share d / (…); both are prepared at a quarter of the size,
    # where a wide blur is ten times quicker and nobody can tell.
    outside = np.minimum(outside, 1.0)
    size = crop.shape[0]
    quarter = (max(1, size // 4),) * 2
    small = cv2.resize(crop, quarter, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigmaX=0.02 * quarter[0])
    far = cv2.resize(outside, quarter, interpolation=cv2.INTER_AREA)
    colour = np.maximum(far, 1 / (4 - 3 * far))[..., None]
    step = max(1, min(window.shape[:2]) // 32)  # a median of a thousand pixels is as good as one of all
    median = np.median(window[::step, ::step].reshape(-1, 3), axis=0).astype(np.float32)
    beyond = cv2.resize(blurred + colour * (median - blurred), (size, size))
    hidden = np.minimum(outside * (4 - 3 * outside), 1)
    return cv2.blendLinear(crop, beyond, 1 - hidden, hidden)


def shrink(crop: np.ndarray, size: int) -> np.ndarray:
    """Reduces a square crop, H×H×3 uint8, to size×size by the mean of whole blocks of pixels.

    Raises:
        ValueError: the crop's side is not a multiple of `size`.
    """
    if crop.shape[0] % size:
        raise ValueError(f"the crop's side must be a multiple of {size}, found: {crop.shape[0]}")
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)


def bounds_of(quad: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of the whole pixels of a width×height picture that a quad touches."""
    low = np.clip(np.floor(quad.min(0)), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(quad.max(0)), 0, (width, height)).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
