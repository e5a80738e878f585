"""One picture, all its faces, one sweep: the function that batch jobs and the service share.

Because they share it, the same request gives the same pixels from both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from capricious.data.records import Face
from capricious.data.titles import title_of
from capricious.faces.align import align
from capricious.faces.image import QUICK, encode
from capricious.render.captions import caption, column_labels, look_label
from capricious.render.composite import (
    AS_THE_BUNDLE_ASKS,
    DIFFERENCE,
    TOGETHER,
    CompositeConfig,
    Compositing,
    Placement,
    in_crop,
    put_back,
)
from capricious.render.provenance import Provenance, stamp
from capricious.render.renderer import Renderer, fit
from capricious.render.scan import Scan
from capricious.render.sheet import cell_for, contact_sheet, gif
from capricious.render.sweep import SOURCE, Sweep, Variant, guesses
from capricious.render.video import video

FACES = 4
"""Faces of one picture that are rendered together."""

PREVIEW = 512
"""Longer side of an animation in pixels. The paintings of a picture no larger than that are made once and kept."""

FRAME_SECONDS = 0.35
"""How long one age is shown in an animation."""


@dataclass(frozen=True, eq=False, repr=False)  # arrays neither compare nor print well
class Sitting:
    """A picture that is ready to be rendered.

    Attributes:
        scan: the picture.
        faces: as Annotator.annotate found them in scan.srgb, largest first.
        source_sha256: hash of the file that the picture came from, for the provenance.
        source_uri: of that file, likewise; nothing for an upload.
    """

    scan: Scan
    faces: tuple[Face, ...]
    source_sha256: str
    source_uri: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """The rendered sweep of one picture. Faces are rendered; whole paintings are made when asked for.

    Attributes:
        scan: the picture as its keeper made it, never written to.
        faces: as annotated, largest first.
        sweep: what was asked for.
        renders: per face, V×R×R×3 uint8 in the order of sweep.variants().
        source_sha256, bundle_sha256: for the provenance in every file made from here.
        composite: how faces are put back.
        source_uri: where the picture comes from, or nothing.
        extrapolated: names of the variants at ages outside of those that the bundle has learnt.
    """

    scan: Scan
    faces: tuple[Face, ...]
    sweep: Sweep
    renders: tuple[np.ndarray, ...]
    source_sha256: str
    bundle_sha256: str
    composite: Compositing = DIFFERENCE
    source_uri: str = ""
    extrapolated: frozenset[str] = frozenset()
    _kept: dict[str, Scan] = field(default_factory=dict, init=False)
    _placements: dict[tuple[int, Compositing, bool], Placement] = field(default_factory=dict, init=False)

    @property
    def title(self) -> str:
        """See data.titles.title_of."""
        return title_of(self.source_uri) or "portrait"

    def render(self, face: int, name: str) -> np.ndarray:
        """Returns what the renderer made of one face in one variant, R×R×3 uint8."""
        return self.renders[face][self._index(name)]

    def crop(self, face: int, name: str) -> np.ndarray:
        """Returns one face in one variant as it is delivered: put back into the crop that it was made from, R×R×3."""
        out = Scan(self.faces[face].image.copy())
        variant = self._variant(name)
        wanted = variant.of(self.faces[face].attributes)
        self._placement(face, variant, alone=True).paint([out], [self.render(face, name)], [wanted])
        return out.srgb

    @property
    def picture(self) -> np.ndarray:
        """The picture as 8-bit sRGB, H×W×3 uint8."""
        return self.scan.srgb

    def painting(self, name: str) -> Scan:
        """Returns the whole picture with every face in one variant, at its own depth and in its own colours.

        In the "source" variant nothing differs from the sitter, so it is the picture itself.
        """
        variant = self._variant(name)
        if name == SOURCE:
            return self.scan
        if max(self.picture.shape) > PREVIEW:
            return self._painted([variant])[0]
        if name not in self._kept:
            # Those of the neighbours will be asked for, too.
            variants = [each for each in self.sweep.variants() if each.name != SOURCE]
            start = variants.index(variant) // TOGETHER * TOGETHER
            some = variants[start : start + TOGETHER]
            self._kept.update(zip((each.name for each in some), self._painted(some), strict=True))
        return self._kept[name]

    def _painted(self, variants: Sequence[Variant]) -> list[Scan]:
        """Returns the whole picture in each variant."""
        paintings = [self.scan.copy() for _ in variants]
        # No pixel is recoloured as a part of two faces (annotate.neighbours), but crops overlap, and all in them moves:
        # the larger face, in front as a rule, last.
        for number in reversed(range(len(self.faces))):
            together: dict[Placement, list[int]] = {}
            for i, variant in enumerate(variants):
                together.setdefault(self._placement(number, variant), []).append(i)
            for placement, at in together.items():
                renders = [self.render(number, variants[i].name) for i in at]
                wanted = [variants[i].of(self.faces[number].attributes) for i in at]
                placement.paint([paintings[i] for i in at], renders, wanted)
        return paintings

    def paintings(self) -> Iterator[tuple[Variant, Scan]]:
        """Yields each variant but the source with its whole picture, one at a time: they may be huge."""
        for variant in self.sweep.variants():
            if variant.name != SOURCE:
                yield variant, self.painting(variant.name)

    def preview(self, longest: int) -> SweepResult:
        """Returns the same sweep on a picture whose longer side is at most `longest` pixels."""
        height, width = self.picture.shape[:2]
        scale = longest / max(height, width)
        if scale >= 1.0:
            return self
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(Image.fromarray(self.picture).resize(size, Image.Resampling.LANCZOS))
        # Sides are rounded to whole pixels, so the two axes may scale a little differently.
        axes = np.array([size[0] / width, size[1] / height], np.float32)
        faces = tuple(
            replace(
                face,
                landmarks=face.landmarks * axes,
                quad=face.quad * axes,
                resolution_score=face.resolution_score * scale,
            )
            for face in self.faces
        )
        scan = Scan(small, exif=self.scan.exif, xmp=self.scan.xmp)
        return replace(self, scan=scan, faces=faces)

    def sheet(self) -> bytes:
        """Returns the contact sheet as a stamped PNG: per face and look one row, the crop and then all ages.

        Faces are shown as they are delivered, put back into the picture; those of a crowd smaller.
        """
        rows, labels = [], []
        ages: Sequence[float | None] = self.sweep.ages or (None,)
        cell = cell_for(len(self.faces) * len(self.sweep.looks()), 1 + len(ages))
        for number, face in enumerate(self.faces):
            crop, reconstruction = align(self.picture, face.quad, cell), self.render(number, SOURCE)
            for look in self.sweep.looks():
                shown = [self.sweep.at(age, look) for age in ages]
                renders = [self.render(number, variant.name) for variant in shown]
                wanted = [variant.of(face.attributes) for variant in shown]
                rows.append([crop, *put_back(crop, face, reconstruction, renders, self.composite.of(look), wanted)])
                who = f"face {number + 1}" if len(self.faces) > 1 else ""
                labels.append(" · ".join(part for part in (who, look_label(look)) if part))
        columns, below = column_labels(self.sweep, self.extrapolated), caption(self.extrapolated)
        sheet = contact_sheet(rows, labels, columns, cell=cell, caption=below)
        return self.stamped(encode(sheet, "png", compression=QUICK))

    def animation(self, longest: int = PREVIEW, format: str = "gif") -> bytes:
        """Returns the whole picture going through the ages and back, look by look, as a stamped "gif", "mp4" or "webm".

        A film says what it is in its comment.
        """
        small = self.preview(longest)
        ages: Sequence[float | None] = self.sweep.ages or (None,)
        frames = [small.painting(self.sweep.at(age, look).name).srgb for look in self.sweep.looks() for age in ages]
        if format == "gif":
            return self.stamped(gif(frames, FRAME_SECONDS, ping_pong=True))
        comment = self._provenance(self.sweep.variants(), self.faces).packet().decode()
        return video(frames + frames[-2:0:-1], FRAME_SECONDS, format, comment)

    def file(self, name: str, format: str = "png", quality: int = 92) -> bytes:
        """Returns the whole picture in one variant as a stamped "png", "jpeg", "webp" or "tiff" (16 bits if it has)."""
        return self._stamped(self.painting(name).encode(format, quality), [self._variant(name)])

    def crop_file(self, face: int, name: str, format: str = "webp", quality: int = 92) -> bytes:
        """Returns one face in one variant as a stamped "png", "jpeg" or "webp"."""
        variants, faces = [self._variant(name)], (self.faces[face],)
        return self._stamped(encode(self.crop(face, name), format, quality, compression=QUICK), variants, faces)

    def record(self, product: str) -> dict[str, Any]:
        """Returns the provenance of one variant, or of all of them for any other name."""
        variants = [variant for variant in self.sweep.variants() if variant.name == product]
        return self._provenance(variants or self.sweep.variants(), self.faces).record()

    def stamped(self, data: bytes) -> bytes:
        """Returns an encoded picture of all variants with their provenance."""
        return self._stamped(data, self.sweep.variants())

    def _placement(self, number: int, variant: Variant, alone: bool = False) -> Placement:
        """Where a face is put back: in the picture, or alone in its crop."""
        composite = self.composite.of(variant)
        key = number, composite, alone
        if key not in self._placements:
            face, reconstruction = self.faces[number], self.render(number, SOURCE)
            scan = Scan(face.image) if alone else self.scan
            face = in_crop(face, len(face.image)) if alone else face
            self._placements[key] = Placement(scan, face, reconstruction, composite)
        return self._placements[key]

    def _variant(self, name: str) -> Variant:
        return self.sweep.variants()[self._index(name)]

    def _index(self, name: str) -> int:
        names = [variant.name for variant in self.sweep.variants()]
        if name not in names:
            raise KeyError(f"variant must be one of {', '.join(names)}, found: {name!r}")
        return names.index(name)

    def _stamped(self, data: bytes, variants: Sequence[Variant], faces: Sequence[Face] | None = None) -> bytes:
        return stamp(data, self._provenance(variants, self.faces if faces is None else faces))

    def _provenance(self, variants: Sequence[Variant], faces: Sequence[Face]) -> Provenance:
        sitters = tuple(face.attributes for face in faces)
        guessed = tuple(variant.name for variant in variants if variant.name in self.extrapolated)
        return Provenance(
            self.source_sha256, self.bundle_sha256, tuple(variants), sitters, self.source_uri, guessed, self.scan.xmp
        )


def render_picture(
    scan: Scan,
    faces: Sequence[Face],
    renderer: Renderer,
    sweep: Sweep,
    *,
    source_sha256: str,
    composite: CompositeConfig = AS_THE_BUNDLE_ASKS,
    source_uri: str = "",
    style: Face | None = None,
) -> SweepResult:
    """Renders a sweep of every face of one picture: see render_pictures() and Sitting."""
    sitting = Sitting(scan, tuple(faces), source_sha256, source_uri)
    return render_pictures([sitting], renderer, sweep, composite=composite, style=style)[0]


def render_pictures(
    sittings: Sequence[Sitting],
    renderer: Renderer,
    sweep: Sweep,
    *,
    composite: CompositeConfig = AS_THE_BUNDLE_ASKS,
    style: Face | None = None,
) -> list[SweepResult]:
    """Renders a sweep of every face of some pictures, faces of different pictures in one forward pass.

    The same arguments give the same bytes, and each picture has those that it has alone.

    Args:
        sittings: the pictures; all their renders are held at once.
        composite: how faces are put back.
        style: the second portrait of variants that ask for its style.
    """
    variants, learnt = sweep.variants(), renderer.bundle.learnt
    settled = composite.settled(renderer.bundle.strength)
    extrapolated = guesses(learnt, variants)
    fitted = [tuple(fit(face, renderer.resolution) for face in sitting.faces) for sitting in sittings]
    faces = [face for each in fitted for face in each]
    # A few faces at a time: the modulations of a crowd would not fit into memory.
    groups = (faces[i : i + FACES] for i in range(0, len(faces), FACES))
    renders = iter([each for group in groups for each in renderer.render_all(group, variants, style)])
    return [
        SweepResult(
            sitting.scan,
            own,
            sweep,
            tuple(islice(renders, len(own))),
            sitting.source_sha256,
            renderer.bundle.sha256,
            settled,
            sitting.source_uri,
            extrapolated,
        )
        for sitting, own in zip(sittings, fitted, strict=True)
    ]
