"""A perceptual hash of aligned crops: copies of one picture differ in few bits, other portraits in many.

The usual 64-bit hash (Zauner 2010, "pHash", section 3.2.1) does not do for aligned faces: eyes, nose and mouth
lie in the same places, so the low frequencies of all sitters look alike. Hence 256 bits, and none for the
frequencies that are constant along an axis, which say how a face is lit rather than whose it is.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

BITS = 256
"""Length of a hash."""

SAME_PICTURE = 39
"""Up to so many differing bits, two crops are taken for copies of one picture.

Measured by changing 241 pictures (JPEG at quality 60, half the size, ±10 % brightness, 2 % cut off, all at once),
finding and aligning their faces again, and on the 3,373,490 pairs of different pictures among 2,598 portraits:
39 bits find 96.7 % of the copies and join no two pictures, 31 find 92.1 %, 55 find 99.4 %; the first wrong pair
comes at 56 bits. Room is left because a collection a hundred times larger has ten thousand times the pairs.
"""

_SIDE = 32
_FREQUENCIES = 16

# Rows 1…16 of the DCT-II: the signs need no scale.
_DCT = np.cos(np.pi / _SIDE * np.outer(np.arange(1, _FREQUENCIES + 1), np.arange(_SIDE) + 0.5)).astype(np.float32)


def perceptual_hash(image: np.ndarray) -> bytes:
    """Hashes a picture by the signs of its low frequencies.

    The luminance is reduced to 32×32 means; bit 16·v + u, most significant bit first, says whether DCT
    coefficient (v + 1, u + 1) is positive. A mirrored picture has another hash: half of its signs turn.

    Args:
        image: H×W×3 uint8, an aligned crop; its size hardly matters from 32×32 up.

    Returns:
        32 bytes, the same on every machine but for coefficients within rounding of zero.

    Raises:
        ValueError: shape or dtype is another.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image must be H×W×3 uint8, found: {image.shape} {image.dtype}")
    grey = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.packbits(_DCT @ np.asarray(grey, np.float32) @ _DCT.T > 0).tobytes()


def hamming(a: bytes, b: bytes) -> int:
    """Returns the number of bits in which two hashes differ, 0…BITS.

    Raises:
        ValueError: their lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"hashes must be of one length, found: {len(a)} and {len(b)} bytes")
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def hamming_many(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compares arrays of hashes, …×K of an unsigned integer type, with broadcasting; returns … int64."""
    return np.bitwise_count(a ^ b).sum(-1, dtype=np.int64)
