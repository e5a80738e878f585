"""The fast path of a sweep: style once, modulations once, then only what differs between variants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
        refined: False for what the generator makes, whatever the bundle holds.

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
        refined: bool = True,
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
        if refined and bundle.refinement is not None:
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
        if style is None and any(variant.style for variant in variants):
            raise ConfigError("a variant asks for the style of a second portrait; name one")
        refuse_unlearnt(self.bundle.learnt, variants)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            fitted = [fit(face, self.resolution) for face in faces]
            # The mean, never a sample: style noise would differ from one variant to the next.
            codes = [self._encoder(self._image(face.image))[0] for face in fitted]
            other = codes[0] if style is None else self._encoder(self._image(fit(style, self.resolution).image))[0]
            maps = [self._generator.modulations(self._label_map(face.label_map)) for face in fitted]
            prepared = [self._synthesis.prepare(each) for each in maps]
            del maps
            rows = [(number, variant) for number in range(len(faces)) for variant in variants]
            vectors = _vectors(fitted, rows)
            pictures = out.reshape(-1, *out.shape[2:])
            sitters, changed = None, np.arange(len(rows))
            if self._refinement is not None:
                sitters = self.sitters(fitted, torch.cat(codes), prepared)
                same = [self.is_unchanged(fitted[n], vectors[i]) and not v.style for i, (n, v) in enumerate(rows)]
                for i in np.flatnonzero(same):
                    pictures[i] = fitted[rows[i][0]].image
                changed = np.flatnonzero(~np.array(same))
            of = [rows[i][0] for i in changed]
            latents = [torch.lerp(codes[n], other, v.style) for n, v in (rows[i] for i in changed)]
            for chosen, attributes, made in self._passes(of, latents, vectors[changed], prepared):
                made = self.finished(made, sitters, [of[i] for i in chosen], attributes)
                targets = changed[chosen[0] : chosen[0] + self.chunk]
                pictures[targets] = to_uint8(made)[: len(targets)]
        return out

    def is_unchanged(self, face: Face, vector: np.ndarray) -> bool:
        """Says whether a face with these attributes is the portrait itself, which needs no network."""
        return self._refinement is not None and np.array_equal(vector, face.attributes.vector())

    def sitters(self, faces: Sequence[Face], codes: Tensor, prepared: Sequence[Modulations]) -> Sitters:
        """Returns what the refinement network needs of each face: what is the same for all its variants."""
        assert self._refinement is not None
        portraits = torch.cat([self._image(face.image) for face in faces])
        label_maps = torch.cat([self._label_map(face.label_map) for face in faces])
        vectors = np.stack([face.attributes.vector() for face in faces])
        found = []
        for chosen, own, made in self._passes(range(len(faces)), codes.split(1), vectors, prepared):
            seen = self._refinement.seen(portraits[chosen], label_maps[chosen], made)
            answer = self._refinement.answer(seen, made, own)
            found.append(Sitters(portraits[chosen], label_maps[chosen], made, seen, answer))
        return Sitters(*(torch.cat(parts)[: len(faces)] for parts in zip(*found, strict=True)))

    def finished(self, renders: Tensor, sitters: Sitters | None, of: Sequence[int], requested: Tensor) -> Tensor:
        """Returns B renders, put back into the portraits of sitters of[row] where the bundle does that.

        The same function as `Refinement.forward`, with what is the same for a whole sweep made beforehand.
        """
        if self._refinement is None or sitters is None:
            return renders
        portraits, label_maps, reconstructions, seen, answers = (each[list(of)] for each in sitters)
        learned = self._refinement.answer(seen, renders, requested) - answers
        return put_back(portraits, label_maps, renders - reconstructions + learned)

    def _passes(
        self, of: Sequence[int], latents: Sequence[Tensor], vectors: np.ndarray, prepared: Sequence[Modulations]
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Renders rows, each with the modulations of sitter of[row]; yields rows, attributes and pictures of a pass."""
        for start in range(0, len(of), self.chunk):
            chosen = [min(start + i, len(of) - 1) for i in range(self.chunk)]
            segments = list(segments_of([of[i] for i in chosen], prepared))
            attributes = torch.from_numpy(vectors[chosen]).to(self.device)
            yield chosen, attributes, self._synthesis(segments, torch.cat([latents[i] for i in chosen]), attributes)

    def _image(self, crop: np.ndarray) -> Tensor:
        image = torch.from_numpy(crop.astype(np.float32) / 127.5 - 1.0).to(self.device)
        return image.permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)

    def _label_map(self, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(labels)).to(self.device)[None]


class Sitters(NamedTuple):
    """F sitters as the refinement network takes them, and its answers to their own attributes: F×…×R×R each."""

    portraits: Tensor
    label_maps: Tensor
    reconstructions: Tensor
    seen: Tensor
    answers: Tensor


def _vectors(faces: Sequence[Face], rows: Sequence[tuple[int, Variant]]) -> np.ndarray:
    """The attribute vector of each (number of a face, variant)."""
    return np.stack([variant.of(faces[number].attributes).vector() for number, variant in rows])


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
