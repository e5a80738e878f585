"""Variants of several faces in one forward pass, and what was computed of a face remembered.

`Renderer.render` takes one face: a single variant fills a chunk of four with copies of itself. Under load the calls
of all callers come together here, so that every place in a chunk is used, and the second call for a face (the next
group of its sweep, the next touch of a slider) needs neither the style encoder nor the modulations, which are more
than half of the arithmetic. Nor is a picture rendered again that was just made: the sitter at the own age is part of
every request. The bits stay those of `Renderer.render`: a row of a chunk does not depend on the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from capricious.data.records import Face
from capricious.model.bundle import Bundle
from capricious.render.renderer import Renderer, Row, Style, fit
from capricious.render.sweep import Variant
from serve.caching import SizedCache

Group = tuple[Face, Sequence[Variant]]


@dataclass(frozen=True, eq=False)
class Asked:
    """A variant of a face."""

    face_key: str
    face: Face
    vector: np.ndarray

    @property
    def key(self) -> Hashable:
        """Names the picture."""
        return self.face_key, self.vector.tobytes()


class SharedChunkRenderer(Renderer):
    """A Renderer that takes groups of variants of any faces. Not thread-safe.

    Args:
        bundle, device, threads: as of Renderer.
        cache_bytes: memory for the styles of faces seen lately; a sixteenth of it more is for pictures.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", *, threads: int | None = None, cache_bytes: int = 0):
        super().__init__(bundle, device, threads=threads)
        self._styles: SizedCache[Style] = SizedCache("styles", cache_bytes)
        self._pictures: SizedCache[np.ndarray] = SizedCache("pictures", cache_bytes // 16)

    @torch.inference_mode()
    def render_groups(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """Returns for each group what render() returns: V×R×R×3 uint8."""
        asked = [self._asked(fit(face, self.resolution), variants) for face, variants in groups]
        pictures: dict[Hashable, np.ndarray] = {}
        missing: dict[Hashable, Asked] = {}
        for one in chain.from_iterable(asked):
            if one.key in pictures or one.key in missing:
                continue
            kept = one.face.image if self.is_unchanged(one.face, one.vector) else self._pictures.get(one.key)
            if kept is None:
                missing[one.key] = one
            else:
                pictures[one.key] = kept
        # Those of one face side by side: they are modulated together.
        todo = sorted(missing.values(), key=lambda one: one.face_key)
        styles = self._styles_of(todo)
        rows = [Row(style := styles[one.face_key], style.latent, one.vector) for one in todo]
        for one, picture in zip(todo, self.pictures(rows), strict=True):
            pictures[one.key] = picture.copy()  # not a view, which would keep the whole pass alive
            self._pictures.put(one.key, pictures[one.key], picture.nbytes)
        shape = (-1, self.resolution, self.resolution, 3)
        return [np.array([pictures[one.key] for one in group], np.uint8).reshape(shape) for group in asked]

    def _asked(self, face: Face, variants: Sequence[Variant]) -> list[Asked]:
        key = key_of(face)
        return [Asked(key, face, variant.of(face.attributes).vector()) for variant in variants]

    def _styles_of(self, asked: Sequence[Asked]) -> dict[str, Style]:
        faces = {one.face_key: one.face for one in asked}
        found = {key: style for key in faces if (style := self._styles.get(key)) is not None}
        new = [key for key in faces if key not in found]
        for key, style in zip(new, self.styles([faces[key] for key in new]), strict=True):
            found[key] = style
            self._styles.put(key, style, style.bytes)
        return found


def key_of(face: Face) -> str:
    """Names a face by what its style depends on: crop, label map, and the sitter's own attributes."""
    vector = face.attributes.vector().tobytes()
    parts = (repr(face.image.shape).encode(), face.image.tobytes(), face.label_map.tobytes(), vector)
    return hashlib.sha256(b"".join(parts)).hexdigest()
