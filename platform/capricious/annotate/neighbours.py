"""Faces cheek to cheek: a parser sees skin and hair, and not whose. What two sitters claim is the nearer one's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from capricious.annotate.finder import face_size
from capricious.data.records import Face
from capricious.faces.align import to_crop, to_source
from capricious.faces.label_map import BACKGROUND

FOREHEAD = 0.5
"""The landmarks end at the brows; the face goes on by so much of what lies between them and the chin."""

_TURNS = np.arange(64) * (2 * np.pi / 64)
_DIRECTIONS = np.stack([np.cos(_TURNS), np.sin(_TURNS)])


def told_apart(faces: Sequence[Face], left_out: Sequence[np.ndarray] = ()) -> list[Face]:
    """Turns what belongs to a neighbour into background, in the label map of each face of a picture.

    No pixel of the picture is then changed as a part of two faces. Faces that do not touch stay as they are.

    Args:
        faces: with label maps, in which all but background is claimed.
        left_out: 68×2 landmarks, source pixels, of the other faces, which claim what these enclose.
    """
    return [_told_from(face, [other for other in faces if other is not face], left_out) for face in faces]


def _told_from(face: Face, others: Sequence[Face], left_out: Sequence[np.ndarray]) -> Face:
    rows, columns = np.nonzero(face.label_map != BACKGROUND)
    places = to_source(np.stack([columns, rows], 1) + 0.5, face.quad, len(face.label_map))
    own = _distance(places, face.landmarks)
    lost = np.zeros(len(places), bool)
    for other in others:
        both = np.flatnonzero(_claimed(places, other))
        lost[both] |= _distance(places[both], other.landmarks) < own[both]
    for landmarks in left_out:
        lost |= _distance(places, landmarks) < np.minimum(own, 0)
    if not lost.any():
        return face
    label_map = face.label_map.copy()
    label_map[rows[lost], columns[lost]] = BACKGROUND
    return replace(face, label_map=label_map)


def _claimed(places: np.ndarray, face: Face) -> np.ndarray:
    """Says of N×2 places in the source picture which a face's label map has as a part of it."""
    size = len(face.label_map)
    columns, rows = np.floor(to_crop(places, face.quad, size)).astype(int).T
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    inside[inside] = face.label_map[rows[inside], columns[inside]] != BACKGROUND
    return inside


def _distance(places: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Returns how far N×2 places lie from the convex hull of a face, in sizes of the face; within it below 0.

    A hull is the half planes that touch it, one in each direction (its support function): of its distances from
    these, a place's is the largest.
    """
    brows, chin = landmarks[17:27], landmarks[8]
    forehead = brows + FOREHEAD * (brows.mean(axis=0) - chin)
    reach = (np.concatenate([landmarks, forehead]) @ _DIRECTIONS).max(axis=0)
    return (places @ _DIRECTIONS - reach).max(axis=1) / face_size(landmarks)
