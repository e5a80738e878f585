"""From 68 landmarks to an aligned square crop in the manner of FFHQ, and back onto the picture.

Coordinates are continuous (x, y) with pixel centres at half integers: the first pixel covers 0…1 and
its centre is 0.5, in the source picture as in the crop. A quad is 4×2: top left, bottom left, bottom
right and top right corner of the crop, in source pixels; it is a square at any angle.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

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
    # Three steps from coarse to fine: box-reduce by a whole factor, warp at `oversampling` times the
    # wanted size (about one sample for each pixel that is left), then a Lanczos reduction.
    scale = side_of(quad) / size
    factor = max(1, math.floor(scale / 2))
    oversampling = min(3, math.ceil(scale / factor))

    reach = _FILTER_REACH * factor
    wanted_low = np.floor(quad.min(0) - reach).astype(int)
    wanted_high = np.ceil(quad.max(0) + reach).astype(int)
    low = np.clip(wanted_low, 0, (width, height))
    high = np.clip(wanted_high, 0, (width, height))
    window = Image.fromarray(np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]]))
    if factor > 1:
        window = window.reduce(factor)
    origin = low.astype(np.float64)
    if (wanted_low < low).any() or (wanted_high > high).any():
        before = -((wanted_low - low) // factor)
        after = np.ceil((wanted_high - high) / factor).astype(int)
        window = _pad(window, before, after, soft=0.3 * scale * size / factor)
        origin -= before * factor

    fine = size * oversampling
    corner, right, down = _frame(quad)
    start = (corner - origin) / factor
    right, down = right / (fine * factor), down / (fine * factor)
    # Pillow maps the centre of each output pixel to continuous input coordinates: our convention.
    coefficients = (right[0], down[0], start[0], right[1], down[1], start[1])
    planes = [_warp(plane, (fine, fine), coefficients) for plane in window.split()]
    if oversampling > 1:
        planes = [plane.resize((size, size), Image.Resampling.LANCZOS) for plane in planes]
    return _to_uint8(np.stack([np.asarray(plane) for plane in planes], axis=-1))


def _warp(plane: Image.Image, shape: tuple[int, int], coefficients: tuple[float, ...]) -> Image.Image:
    """Warps one channel as float: on 8-bit pixels Pillow's bicubic warp truncates, half a level too dark."""
    return plane.convert("F").transform(shape, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BICUBIC)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)


def _pad(window: Image.Image, before: np.ndarray, after: np.ndarray, soft: float) -> Image.Image:
    """Mirrors a picture outwards, blurring and then fading to its median colour with the distance.

    Args:
        before, after: (x, y) pixels to add on the left and top, and on the right and bottom.
        soft: distance in pixels at which the picture has faded away.

    Returns:
        The larger picture; its original pixels are unchanged.
    """
    width, height = window.size
    (left, top), (right, bottom) = before, after
    mirrored = np.pad(np.asarray(window), ((top, bottom), (left, right), (0, 0)), mode="symmetric")
    x = np.maximum(left - np.arange(mirrored.shape[1]), np.arange(mirrored.shape[1]) - left - width + 1)
    y = np.maximum(top - np.arange(mirrored.shape[0]), np.arange(mirrored.shape[0]) - top - height + 1)
    outside = np.clip(np.maximum(x[None, :], y[:, None]) / soft, 0.0, 1.0).astype(np.float32)[..., None]
    blurred = Image.fromarray(mirrored).filter(ImageFilter.GaussianBlur(soft / 15))
    out = mirrored + (np.asarray(blurred) - mirrored.astype(np.float32)) * np.minimum(3 * outside, 1)
    median = np.median(np.asarray(window).reshape(-1, 3), axis=0)
    out += (median.astype(np.float32) - out) * outside
    return Image.fromarray(_to_uint8(out))


def unalign(crop: np.ndarray, quad: np.ndarray, width: int, height: int) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Warps a crop back onto the pixel grid of its source picture: the inverse of align().

    Args:
        crop: R×R or R×R×C, uint8 or any float (values of any sign, e.g. a difference of two renders).
        quad: 4×2 corners as from quad_of().
        width, height: size of the source picture.

    Returns:
        x0, y0, patch and mask: `patch` is h×w (×C), uint8 for uint8 and else float32, and belongs at
        picture[y0:y0+h, x0:x0+w], the part of the picture that the quad's bounding box covers; it is 0
        outside of the quad. `mask` is h×w float32: 1 inside of the quad, falling to 0 over the last
        source pixel before its edge, 0 outside. h or w is 0 when the quad misses the picture.

    Raises:
        ValueError: the crop is not square.
        Rejection: stage "landmarks", reason "degenerate".
    """
    size = crop.shape[0]
    if crop.ndim not in (2, 3) or crop.shape[1] != size:
        raise ValueError(f"crop must be R×R or R×R×C, found: {crop.shape}")
    x0, y0 = np.clip(np.floor(quad.min(0)), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(quad.max(0)), 0, (width, height)).astype(int)
    shape = (int(x1 - x0), int(y1 - y0))

    # Where the source is coarser than the crop (an enlarged face) the crop must be reduced first.
    side = side_of(quad)
    grid = min(size, max(1, math.ceil(side)))
    origin, across, along = to_crop(np.array([[x0, y0], [x0 + 1, y0], [x0, y0 + 1]]), quad, grid)
    coefficients = (*np.stack([across - origin, along - origin, origin], axis=1).ravel(),)

    def warp(plane: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        if grid < size:
            picture = picture.resize((grid, grid), Image.Resampling.LANCZOS)
        return np.asarray(_warp(picture, shape, coefficients))

    mask = _coverage(origin, across - origin, along - origin, shape, grid) * np.float32(side / grid)
    mask = np.clip(mask, 0.0, 1.0)
    if 0 in shape:
        return int(x0), int(y0), np.zeros((shape[1], shape[0], *crop.shape[2:]), crop.dtype), mask
    planes = np.atleast_3d(crop)
    patch = np.stack([warp(planes[..., c]) for c in range(planes.shape[2])], axis=-1)
    patch = patch.reshape(shape[1], shape[0], *crop.shape[2:])
    if crop.dtype == np.uint8:
        patch = _to_uint8(patch)
    return int(x0), int(y0), patch, mask


def _coverage(
    origin: np.ndarray, across: np.ndarray, along: np.ndarray, shape: tuple[int, int], grid: int
) -> np.ndarray:
    """Returns how deep each source pixel's centre lies inside of the crop, in crop pixels; h×w float32."""
    columns = np.arange(shape[0], dtype=np.float32) + 0.5
    rows = np.arange(shape[1], dtype=np.float32) + 0.5
    depth = np.full((shape[1], shape[0]), np.inf, np.float32)
    for axis in (0, 1):
        at = (origin[axis] + across[axis] * columns).astype(np.float32)
        at = at + (along[axis] * rows).astype(np.float32)[:, None]
        depth = np.minimum(depth, np.minimum(at, grid - at))
    return depth
