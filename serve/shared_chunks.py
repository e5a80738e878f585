"""Variants of several faces in one forward pass, and what was computed of a face remembered.

`Renderer.render` takes one face: a single variant fills a chunk of four with copies of itself. Under load the calls
of all callers come together here, so that every place in a chunk is used, and the second call for a face (the next
group of its sweep, the next touch of a slider) needs neither the style encoder nor the modulations, which are more
than half of the arithmetic. The bits stay those of `Renderer.render`: a row of a chunk does not depend on the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from capricious.data.records import Face
from capricious.model.bundle import Bundle
from capricious.model.generator import Modulations
from capricious.render.renderer import Renderer, _to_uint8, fit
from capricious.render.sweep import Variant
from capricious.render.synthesis import segments_of
from serve.caching import SizedCache

Group = tuple[Face, Sequence[Variant]]


@dataclass(frozen=True, eq=False)
class Style:
    """What all variants of a face share: its latent, 1×latent, and its prepared modulations (render.synthesis)."""

    latent: Tensor
    modulations: Modulations

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.latent.nbytes + sum(scale.nbytes + shift.nbytes for scale, shift in self.modulations)


class SharedChunkRenderer(Renderer):
    """A Renderer that takes groups of variants of any faces. Not thread-safe.

    Args:
        bundle, device, threads: as of Renderer.
        cache_bytes: memory for the styles of faces seen lately.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", *, threads: int | None = None, cache_bytes: int = 0):
        super().__init__(bundle, device, threads=threads)
        self._styles: SizedCache[Style] = SizedCache("styles", cache_bytes)

    @torch.inference_mode()
    def render_groups(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """Returns for each group what render() returns: V×R×R×3 uint8."""
        faces = [fit(face, self.resolution) for face, _ in groups]
        styles = self._styles_of(faces)
        rows = [
            (style, variant.of(face.attributes).vector())
            for style, face, (_, variants) in zip(styles, faces, groups, strict=True)
            for variant in variants
        ]
        # Rows of one face side by side: they are modulated together.
        first = {id(style): i for i, (style, _) in reversed(list(enumerate(rows)))}
        order = sorted(range(len(rows)), key=lambda i: first[id(rows[i][0])])
        pictures = np.empty((len(rows), self.resolution, self.resolution, 3), np.uint8)
        for start in range(0, len(order), self.chunk):
            places = order[start : start + self.chunk]
            pictures[places] = self._chunk([rows[i] for i in places])[: len(places)]
        ends = np.cumsum([len(variants) for _, variants in groups])
        return np.split(pictures, ends[:-1]) if groups else []

    def _chunk(self, rows: Sequence[tuple[Style, np.ndarray]]) -> np.ndarray:
        rows = [*rows, *[rows[-1]] * (self.chunk - len(rows))]
        styles = list(dict.fromkeys(style for style, _ in rows))
        segments = list(segments_of([styles.index(s) for s, _ in rows], [s.modulations for s in styles]))
        latents = torch.cat([style.latent for style, _ in rows])
        vectors = torch.from_numpy(np.stack([vector for _, vector in rows])).to(self.device)
        return _to_uint8(self._synthesis(segments, latents, vectors))

    def _styles_of(self, faces: Sequence[Face]) -> list[Style]:
        found: dict[str, Style] = {}
        keys = [key_of(face) for face in faces]
        for key, face in zip(keys, faces, strict=True):
            if key in found:
                continue
            style = self._styles.get(key)
            if style is None:
                latent, _ = self._encoder(self._image(face.image))
                modulations = self._generator.modulations(self._label_map(face.label_map))
                style = Style(latent, self._synthesis.prepare(modulations))
                self._styles.put(key, style, style.bytes)
            found[key] = style
        return [found[key] for key in keys]


def key_of(face: Face) -> str:
    """Names a face by what its style depends on: crop and label map."""
    parts = (repr(face.image.shape).encode(), face.image.tobytes(), face.label_map.tobytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()
