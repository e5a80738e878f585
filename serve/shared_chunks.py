"""Variants of several faces in one forward pass, and what was computed of a face remembered.

`Renderer.render` takes one face: a single variant fills a chunk of four with copies of itself. Under load the calls
of all callers come together here, so that every place in a chunk is used, and the second call for a face (the next
group of its sweep, the next touch of a slider) needs neither the style encoder nor the modulations, which are more
than half of the arithmetic. Nor is a picture rendered again that was just made: the sitter at the own age is part of
every request. The bits stay those of `Renderer.render`: a row of a chunk does not depend on the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from capricious.data.records import Face
from capricious.model.bundle import Bundle
from capricious.model.generator import Modulations
from capricious.render.renderer import Renderer, Sitters, fit, to_uint8
from capricious.render.sweep import Variant
from capricious.render.synthesis import segments_of
from serve.caching import SizedCache

Group = tuple[Face, Sequence[Variant]]


@dataclass(frozen=True, eq=False)
class Style:
    """What all variants of a face share: its latent, 1×latent, its prepared modulations (render.synthesis), and what a
    refinement network, if the bundle has one, needs of it."""

    latent: Tensor
    modulations: Modulations
    sitter: Sitters | None

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        tensors = [self.latent, *chain.from_iterable(self.modulations), *(self.sitter or ())]
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True, eq=False)
class Row:
    """A variant of a face: what one row of a batch shows."""

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
        asked = [self._rows(fit(face, self.resolution), variants) for face, variants in groups]
        pictures: dict[Hashable, np.ndarray] = {}
        missing: dict[Hashable, Row] = {}
        for row in chain.from_iterable(asked):
            if row.key in pictures or row.key in missing:
                continue
            kept = row.face.image if self.is_unchanged(row.face, row.vector) else self._pictures.get(row.key)
            if kept is None:
                missing[row.key] = row
            else:
                pictures[row.key] = kept
        # Rows of one face side by side: they are modulated together.
        rows = sorted(missing.values(), key=lambda row: row.face_key)
        styles = self._styles_of(rows)
        for start in range(0, len(rows), self.chunk):
            chunk = rows[start : start + self.chunk]
            for row, picture in zip(chunk, self._chunk(chunk, styles), strict=False):  # the chunk may be filled up
                pictures[row.key] = picture.copy()  # not a view, which would keep the chunk alive
                self._pictures.put(row.key, pictures[row.key], picture.nbytes)
        shape = (-1, self.resolution, self.resolution, 3)
        return [np.array([pictures[row.key] for row in group], np.uint8).reshape(shape) for group in asked]

    def _rows(self, face: Face, variants: Sequence[Variant]) -> list[Row]:
        key = key_of(face)
        return [Row(key, face, variant.of(face.attributes).vector()) for variant in variants]

    def _chunk(self, rows: Sequence[Row], styles: dict[str, Style]) -> np.ndarray:
        rows = [*rows, *[rows[-1]] * (self.chunk - len(rows))]
        names = list(dict.fromkeys(row.face_key for row in rows))
        prepared = [styles[name].modulations for name in names]
        of = [names.index(row.face_key) for row in rows]
        segments = list(segments_of(of, prepared))
        latents = torch.cat([styles[row.face_key].latent for row in rows])
        vectors = torch.from_numpy(np.stack([row.vector for row in rows])).to(self.device)
        made = self._synthesis(segments, latents, vectors)
        return to_uint8(self.finished(made, _together(styles[name].sitter for name in names), of, vectors))

    def _styles_of(self, rows: Sequence[Row]) -> dict[str, Style]:
        faces = {row.face_key: row.face for row in rows}
        styles = {key: style for key in faces if (style := self._styles.get(key)) is not None}
        if new := [key for key in faces if key not in styles]:
            made = self._new_styles([faces[key] for key in new])
            for key, style in zip(new, made, strict=True):
                styles[key] = style
                self._styles.put(key, style, style.bytes)
        return styles

    def _new_styles(self, faces: Sequence[Face]) -> list[Style]:
        latents = [self._encoder(self._image(face.image))[0] for face in faces]
        maps = (self._generator.modulations(self._label_map(face.label_map)) for face in faces)
        prepared = [self._synthesis.prepare(modulations) for modulations in maps]
        sitters: list[Sitters | None] = [None] * len(faces)
        if self._refinement is not None:
            together = self.sitters(faces, torch.cat(latents), prepared)
            sitters = [Sitters(*(each[i : i + 1].clone() for each in together)) for i in range(len(faces))]
        return [Style(*parts) for parts in zip(latents, prepared, sitters, strict=True)]


def _together(sitters: Iterable[Sitters | None]) -> Sitters | None:
    """Joins sitters that were kept one by one."""
    known = [sitter for sitter in sitters if sitter is not None]
    return Sitters(*map(torch.cat, zip(*known, strict=True))) if known else None


def key_of(face: Face) -> str:
    """Names a face by what its style depends on: crop, label map, and the sitter's own attributes."""
    vector = face.attributes.vector().tobytes()
    parts = (repr(face.image.shape).encode(), face.image.tobytes(), face.label_map.tobytes(), vector)
    return hashlib.sha256(b"".join(parts)).hexdigest()
