"""Faces cheek to cheek: what two label maps claim belongs to one of the sitters."""

import dataclasses

import numpy as np
import pytest
import skimage.data
from placement_tools import square

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.annotate.neighbours import told_apart
from capricious.data.records import Face
from capricious.faces.align import align, to_crop, to_source
from capricious.faces.attributes import Attributes
from capricious.faces.label_map import BACKGROUND, HAIR, SKIN
from capricious.render.composite import Compositing, Placement
from capricious.render.scan import Scan
from capricious.render.shape_change import mean_shape

R = 64
FLAT = np.full((400, 700, 3), 120, np.uint8)


def a_face(x: float, side: float = 300, label: int = SKIN) -> Face:
    """A face in FLAT whose label map claims all of its crop."""
    quad = square(x, 200, side)
    landmarks = to_source(mean_shape(40, 1), quad, 1).astype(np.float32)
    labels = np.full((R, R), label, np.uint8)
    return Face(align(FLAT, quad, R), labels, landmarks, quad, Attributes(), {}, 1, 1, np.zeros(3), 1, 1)


def changed(faces: list[Face]) -> np.ndarray:
    """By how many levels FLAT changes where each face is to change by 30."""
    out = Scan(FLAT).copy()
    for face in faces:
        Placement(Scan(FLAT), face, face.image, Compositing()).paint([out], [face.image + np.uint8(30)])
    return (out.srgb.astype(int) - FLAT)[..., 0]


def test_changes_of_faces_that_touch_do_not_add_up():
    faces = [a_face(260), a_face(410)]
    assert changed(faces)[200, 335] == 60
    between = changed(told_apart(faces))[100:300, 250:420]
    assert between.min() >= 27 and between.max() <= 33


@pytest.mark.parametrize("side", [300, 160])
def test_each_keeps_its_own_face_and_what_nobody_else_claims(side: float):
    left, right = told_apart([a_face(260), a_face(410, side, HAIR)])
    for face, other in ((left, right), (right, left)):
        mine = face.label_map != BACKGROUND
        x, y = np.clip(to_crop(face.landmarks, face.quad, R), 0, R - 1).astype(int).T
        assert mine[y, x].mean() > 0.9
        rows, columns = np.nonzero(~mine)
        at = to_crop(to_source(np.stack([columns, rows], 1) + 0.5, face.quad, R), other.quad, R)
        x, y = np.floor(at).astype(int).T
        assert len(at) > 100 and (other.label_map[y, x] != BACKGROUND).mean() > 0.95  # but for the rounding of pixels


def test_faces_that_do_not_touch_stay_as_they_are():
    faces = [a_face(160, 200), a_face(400, 200)]
    assert all(after is before for before, after in zip(faces, told_apart(faces), strict=True))
    apart = [dataclasses.replace(face, label_map=face.label_map.copy()) for face in (a_face(200), a_face(450))]
    apart[0].label_map[:, 30:] = BACKGROUND  # the crops overlap, the sitters do not
    assert all(after is before for before, after in zip(apart, told_apart(apart), strict=True))


def test_a_face_that_is_left_out_keeps_what_its_landmarks_enclose():
    face, other = a_face(260), a_face(380)
    (alone,) = told_apart([face], [other.landmarks])
    nose = np.floor(to_crop(other.landmarks[27:31], face.quad, R)).astype(int)
    assert (alone.label_map[nose[:, 1], nose[:, 0]] == BACKGROUND).all()
    assert (alone.label_map[:, : R // 2] == SKIN).all()


def test_two_astronauts_cheek_to_cheek():
    photo = skimage.data.astronaut()[:260, 100:360]
    pair = np.ascontiguousarray(np.concatenate([photo[:, :166], photo[:, 84:]], 1))
    faces = Annotator(AnnotatorConfig(resolution=128)).annotate(pair)
    assert len(faces) == 2
    for face, other in (faces, faces[::-1]):
        x, y = np.floor(to_crop(other.landmarks, face.quad, 128)).astype(int).T
        inside = (np.minimum(x, y) >= 0) & (np.maximum(x, y) < 128)
        assert inside.sum() > 20 and (face.label_map[y[inside], x[inside]] == BACKGROUND).mean() > 0.8
    (alone,) = Annotator(AnnotatorConfig(resolution=128, max_faces=1)).annotate(pair)
    assert (alone.label_map == faces[0].label_map).mean() > 0.9
