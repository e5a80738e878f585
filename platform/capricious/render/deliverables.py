"""Which files a portrait gets, and under which names: its products. Each is one file in the portrait's folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from capricious.errors import ConfigError, Rejection
from capricious.faces.formats import opened
from capricious.render.iiif import manifest
from capricious.render.picture import SweepResult
from capricious.render.sweep import SOURCE, Sweep

SUFFIX = {"jpeg": "jpg", "png": "png", "tiff": "tif", "webp": "webp"}

JPEG_SIDE = 65_535
"""No JPEG has more pixels a side."""

WHOLE = frozenset({"sheet", "animation", "manifest"})
"""Products that show every variant."""

Deliverable = tuple[str, str, bytes]
"""Product, file name and content."""


@dataclass(frozen=True)
class DeliverablesConfig:
    """What is made of each portrait."""

    paintings: Literal["jpeg", "png", "tiff", "same", "none"] = "jpeg"
    """File format of the whole pictures with their sitters in each variant. tiff keeps 16 bits; same is the format
    that the picture came in, where it can be written; none for sheets and animations alone."""
    animation: Literal["gif", "mp4", "webm", "none"] = "gif"
    """The whole picture going through all variants and back."""
    iiif: str = ""
    """Web address under which OUT will be published; then each portrait gets an IIIF manifest. Its viewers are web
    pages, and browsers show no TIFF."""

    def __post_init__(self) -> None:
        if self.iiif and not self.iiif.startswith(("https://", "http://")):
            raise ConfigError(f"deliverables.iiif must be a web address, https://…, found: {self.iiif}")
        if self.iiif and self.paintings == "none":
            raise ConfigError("deliverables.iiif shows the paintings; choose a format for deliverables.paintings")
        if self.iiif and self.paintings == "tiff":
            raise ConfigError("deliverables.iiif: browsers show no TIFF; let deliverables.paintings be jpeg or png")

    def products(self, sweep: Sweep) -> list[str]:
        """Names what each portrait gets, in the order in which `files` makes it."""
        variants = [variant.name for variant in sweep.variants() if variant.name != SOURCE]
        return [
            *(variants if self.paintings != "none" else ()),
            "sheet",
            *(["animation"] if self.animation != "none" else ()),
            *(["manifest"] if self.iiif else ()),
        ]

    def files(self, result: SweepResult, data: bytes, folder: str) -> Iterator[Deliverable]:
        """Makes a portrait's files one after the other; whole paintings may be huge.

        Args:
            result: the sweep.
            data: the picture's file, for its format.
            folder: where the files will lie, below OUT.

        Raises:
            Rejection: stage "encode"; reason "too-large-for-jpeg" or "tiff-in-browsers", before the first file.
        """
        names = []
        if self.paintings != "none":
            format = self._format(result, data)
            for variant in result.sweep.variants():
                if variant.name != SOURCE:
                    names.append(f"{variant.name}.{SUFFIX[format]}")
                    yield variant.name, names[-1], result.file(variant.name, format)
        yield "sheet", "sheet.png", result.sheet()
        if self.animation != "none":
            yield "animation", f"sweep.{self.animation}", result.animation(format=self.animation)
        if self.iiif:
            yield "manifest", "manifest.json", manifest(result, names, f"{self.iiif.rstrip('/')}/{folder}")

    def _format(self, result: SweepResult, data: bytes) -> str:
        """Returns the format of a portrait's paintings, in which they can be written and shown."""
        format = _format_of(data) if self.paintings == "same" else self.paintings
        height, width = result.picture.shape[:2]
        if format == "jpeg" and max(height, width) > JPEG_SIDE:
            detail = f"the painting has {width:,} × {height:,} pixels, a JPEG at most {JPEG_SIDE:,} a side"
            raise Rejection("encode", "too-large-for-jpeg", f"{detail}; choose --deliverables.paintings tiff")
        if format == "tiff" and self.iiif:
            detail = "the picture is a TIFF, so its paintings are, and browsers show none in an IIIF manifest"
            raise Rejection("encode", "tiff-in-browsers", f"{detail}; choose --deliverables.paintings jpeg")
        return format


def _format_of(data: bytes) -> str:
    with opened(data) as image:
        return {"JPEG": "jpeg", "TIFF": "tiff", "WEBP": "webp"}.get(str(image.format), "png")
