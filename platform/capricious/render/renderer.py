"""The fast path of a sweep: style once, modulations once, then only what differs between variants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from capricious.data.records import Face
from capricious.errors import ConfigError
from capricious.faces.label_map import resize_label_map
from capricious.model.bundle import Bundle
from capricious.model.encoder import StyleEncoder
from capricious.model.generator import Generator, Modulations
from capricious.model.patches import AUTO_SHARE
from capricious.model.put_back import put_back
from capricious.model.refinement import Refinement
from capricious.render.sweep import Variant, refuse_unlearnt
from capricious.render.synthesis import Synthesis, segments_of

CHUNKS = {"cpu": 4, "cuda": 16}
"""Default variants per forward pass. Memory is bounded by it, not by the length of the sweep."""

ROWS = 4
"""MKL's matrix products round the rows of an incomplete block of four differently (measured with torch 2.13, AVX2)."""


class Renderer:
    """Renders the variants of faces with one bundle, on one device.

    A bundle with a refinement network (model/refinement.py) yields portraits with the change put back into them, and
    the portrait itself where nothing changes; one without yields what its generator makes.

    Every forward pass has exactly `chunk` variants, of as many faces as it takes (the last one is filled up): kernels
    are chosen by shape, and another kernel rounds differently. So the bytes of a variant do not depend on which others,
    or how many, are rendered beside it. They may depend on machine, device, dtype, threads and chunk.

    Args:
        bundle: generator and style encoder, float32, eval mode; they are moved to `device`.
        device: as torch names it.
        dtype: torch.float32 (the reference) or torch.bfloat16 (autocast).
        threads: CPU threads of the whole process; None leaves torch's setting.
        chunk: variants per forward pass, 1 or a multiple of ROWS; None for CHUNKS.

    Raises:
        ConfigError: `chunk`, `threads` or `dtype` makes no sense, or the device is not there.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str | torch.device = "cpu",
        *,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        chunk: int | None = None,
    ):
        if dtype not in (torch.float32, torch.bfloat16):
            raise ConfigError(f"dtype must be float32 or bfloat16, found: {dtype}")
        if threads is not None:
            if threads < 1:
                raise ConfigError(f"threads must be at least 1, found: {threads}")
            torch.set_num_threads(threads)
        self.bundle = bundle
        self.device = _available(torch.device(device))
        self.dtype = dtype
        self.chunk = CHUNKS.get(self.device.type, ROWS) if chunk is None else chunk
        if self.chunk != 1 and (self.chunk < 1 or self.chunk % ROWS):
            raise ConfigError(f"chunk must be 1 or a multiple of {ROWS} variants, found: {chunk}")
        self.resolution: int = bundle.generator.config.resolution
        # Channels last is the layout of the fast convolution kernels, on CPUs as on tensor cores.
        # (torch's own type hints of Module.to do not know memory_format.)
        last = {"memory_format": torch.channels_last}
        self._generator: Generator = bundle.generator.to(self.device).to(**last)  # type: ignore[call-overload]
        self._encoder: StyleEncoder = bundle.encoder.to(self.device).to(**last)  # type: ignore[call-overload]
        self._refinement: Refinement | None = None
        if bundle.refinement is not None:
            self._refinement = bundle.refinement.to(self.device).to(**last)  # type: ignore[call-overload]
        self._generator.distinct_share = AUTO_SHARE if self.device.type == "cpu" else 0.0
        self._synthesis = Synthesis(self._generator, winograd=dtype == torch.float32)

    def render(self, face: Face, variants: Sequence[Variant], style: Face | None = None) -> np.ndarray:
        """Returns the variants of one face: see render_all()."""
        return self.render_all([face], variants, style)[0]

    @torch.inference_mode()
    def render_all(self, faces: Sequence[Face], variants: Sequence[Variant], style: Face | None = None) -> np.ndarray:
        """Returns the variants of each face as F×V×R×R×3 uint8, in their order, at the bundle's resolution.

        A face of another resolution is fitted first. Attributes that are unknown and that a variant does not set stay
        unknown: the network was trained with that state.

        Args:
            faces: their modulations are held all at once; 90 MB each at 128 px and width 64.
            variants: of each face.
            style: a second portrait, whose style code those variants get that ask for a share of it.

        Raises:
            ConfigError: a variant asks for the style of a second portrait, and there is none; or for an attribute that
                the bundle has never seen.
        """
        out = np.empty((len(faces), len(variants), self.resolution, self.resolution, 3), np.uint8)
        if out.size == 0:
            return out
        rows = self._rows(faces, variants, style)
        pictures = out.reshape(-1, *out.shape[2:])
        changed = []
        for i, row in enumerate(rows):
            if self.is_unchanged(row.style.face, row.vector) and row.latent is row.style.latent:
                pictures[i] = row.style.face.image
            else:
                changed.append(i)
        for i, picture in zip(changed, self.pictures([rows[i] for i in changed]), strict=True):
            pictures[i] = picture
        return out

    @torch.inference_mode()
    def render_both(self, faces: Sequence[Face], variants: Sequence[Variant]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the variants of each face as the generator makes them, and as render_all() does: F×V×R×R×3 each."""
        rows = self._rows(faces, variants, None)
        shape = (len(faces), len(variants), self.resolution, self.resolution, 3)
        both: list[tuple[np.ndarray, np.ndarray]] = []
        for part in self._passes(rows):
            made = self._made(part)
            both += zip(to_uint8(made), to_uint8(self._finished(part, made)), strict=True)
        alone, finished = (np.stack(each).reshape(shape) for each in zip(*both[: len(rows)], strict=True))
        return alone, finished

    def is_unchanged(self, face: Face, vector: np.ndarray) -> bool:
        """Says whether a face with these attributes is the portrait itself, which needs no network."""
        return self._refinement is not None and np.array_equal(vector, face.attributes.vector())

    def styles(self, faces: Sequence[Face]) -> list[Style]:
        """Returns what all variants of each face share. Faces have the bundle's resolution: see fit()."""
        styles = []
        with self._autocast():
            for face in faces:
                # The mean, never a sample: style noise would differ from one variant to the next.
                latent = self._encoder(self._image(face.image))[0]
                modulations = self._generator.modulations(self._label_map(face.label_map))
                styles.append(Style(face, latent, self._synthesis.prepare(modulations)))
        if self._refinement is None:
            return styles
        own = [Row(style, style.latent, style.face.attributes.vector()) for style in styles]
        sitters = chain.from_iterable(self._sitters(part) for part in self._passes(own))
        return [replace(style, sitter=sitter) for style, sitter in zip(styles, sitters, strict=False)]  # filled up

    def pictures(self, rows: Sequence[Row]) -> Iterator[np.ndarray]:
        """Yields the picture of each row, R×R×3 uint8; rows of one style stand side by side, and are made together."""
        left = len(rows)
        for part in self._passes(rows):
            yield from to_uint8(self._finished(part, self._made(part)))[:left]
            left -= len(part)

    def _rows(self, faces: Sequence[Face], variants: Sequence[Variant], style: Face | None) -> list[Row]:
        if style is None and any(variant.style for variant in variants):
            raise ConfigError("a variant asks for the style of a second portrait; name one")
        refuse_unlearnt(self.bundle.learnt, variants)
        other: Tensor | None = None
        if style is not None:
            with self._autocast():
                other = self._encoder(self._image(fit(style, self.resolution).image))[0]
        rows = []
        for own in self.styles([fit(face, self.resolution) for face in faces]):
            for variant in variants:
                latent = own.latent
                if other is not None and variant.style:
                    latent = torch.lerp(latent, other, variant.style)
                rows.append(Row(own, latent, variant.of(own.face.attributes).vector()))
        return rows

    def _passes(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Yields the rows of each forward pass; the last is filled up with its last row."""
        for start in range(0, len(rows), self.chunk):
            part = list(rows[start : start + self.chunk])
            yield part + part[-1:] * (self.chunk - len(part))

    def _made(self, rows: Sequence[Row]) -> Tensor:
        """Returns what the generator makes of the rows of a pass: B×3×R×R in −1…1."""
        segments = list(segments_of([row.style.modulations for row in rows]))
        with self._autocast():
            return self._synthesis(segments, torch.cat([row.latent for row in rows]), self._vectors(rows))

    def _sitters(self, rows: Sequence[Row]) -> list[Sitter]:
        """Returns what the refinement network needs of the sitters of a pass, each shown as he is."""
        assert self._refinement is not None
        made = self._made(rows)
        portraits = torch.cat([self._image(row.style.face.image) for row in rows])
        label_maps = torch.cat([self._label_map(row.style.face.label_map) for row in rows])
        with self._autocast():
            seen = self._refinement.seen(portraits, label_maps, made)
            answer = self._refinement.answer(seen, made, self._vectors(rows))
        parts = (portraits, label_maps, made, seen, answer)
        return [Sitter(*(each[i : i + 1].clone() for each in parts)) for i in range(len(rows))]

    def _finished(self, rows: Sequence[Row], made: Tensor) -> Tensor:
        """Returns what was made of the rows of a pass, put back into their portraits where the bundle does that.

        The same function as `Refinement.forward`, with what is the same for a whole sweep made beforehand.
        """
        if self._refinement is None:
            return made
        sitters = [row.style.sitter for row in rows if row.style.sitter is not None]
        together = Sitter(*map(torch.cat, zip(*sitters, strict=True)))
        with self._autocast():
            learned = self._refinement.answer(together.seen, made, self._vectors(rows)) - together.answer
            change = made - together.reconstruction + learned
            return put_back(together.portrait, together.label_map, change)

    def _vectors(self, rows: Sequence[Row]) -> Tensor:
        return torch.from_numpy(np.stack([row.vector for row in rows])).to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _image(self, crop: np.ndarray) -> Tensor:
        image = torch.from_numpy(crop.astype(np.float32) / 127.5 - 1.0).to(self.device)
        return image.permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)

    def _label_map(self, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(labels)).to(self.device)[None]


class Sitter(NamedTuple):
    """A sitter as the refinement network takes him, and its answer to his own attributes: 1×…×R×R each."""

    portrait: Tensor
    label_map: Tensor
    reconstruction: Tensor
    seen: Tensor
    answer: Tensor


@dataclass(frozen=True, eq=False)
class Style:
    """What all variants of a face share.

    Attributes:
        face: at the bundle's resolution.
        latent: its style code, 1×latent.
        modulations: prepared (render.synthesis).
        sitter: where the bundle has a refinement network.
    """

    face: Face
    latent: Tensor
    modulations: Modulations
    sitter: Sitter | None = None

    @property
    def bytes(self) -> int:
        """Memory that its tensors take."""
        tensors = [self.latent, *chain.from_iterable(self.modulations), *(self.sitter or ())]
        return sum(tensor.nbytes for tensor in tensors)


class Row(NamedTuple):
    """What one row of a forward pass shows: a face, with a latent that may be mixed, and an attribute vector."""

    style: Style
    latent: Tensor
    vector: np.ndarray


def fit(face: Face, resolution: int) -> Face:
    """Returns the face with its crop and label map at a network's resolution; the quad stays as it is."""
    size = (resolution, resolution)
    image, labels = face.image, face.label_map
    if image.shape[:2] != size:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    if labels.shape != size:
        labels = resize_label_map(labels, resolution)
    return replace(face, image=image, label_map=labels)


def to_uint8(pictures: Tensor) -> np.ndarray:
    """B×3×R×R in −1…1 → B×R×R×3 uint8, rounded to nearest."""
    return (pictures.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _available(device: torch.device) -> torch.device:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device} was asked for, but torch sees no CUDA device here; use device cpu")
    return device
