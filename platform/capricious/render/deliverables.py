"""Which files a portrait gets, and under which names: its products. Each is one file in the portrait's folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from capricious.errors import ConfigError
from capricious.faces.formats import opened
from capricious.render.iiif import manifest
from capricious.render.picture import SweepResult
from capricious.render.sweep import SOURCE, Sweep

SUFFIX = {"jpeg": "jpg", "png": "png", "tiff": "tif", "webp": "webp"}

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
    """Web address under which OUT will be published; then each portrait gets an IIIF manifest."""

    def __post_init__(self) -> None:
        if self.iiif and not self.iiif.startswith(("https://", "http://")):
            raise ConfigError(f"deliverables.iiif must be a web address, https://…, found: {self.iiif}")
        if self.iiif and self.paintings == "none":
            raise ConfigError("deliverables.iiif shows the paintings; choose a format for deliverables.paintings")

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
        """
        names = []
        if self.paintings != "none":
            format = _format_of(data) if self.paintings == "same" else self.paintings
            for variant in result.sweep.variants():
                if variant.name != SOURCE:
                    names.append(f"{variant.name}.{SUFFIX[format]}")
                    yield variant.name, names[-1], result.file(variant.name, format)
        yield "sheet", "sheet.png", result.sheet()
        if self.animation != "none":
            yield "animation", f"sweep.{self.animation}", result.animation(format=self.animation)
        if self.iiif:
            yield "manifest", "manifest.json", manifest(result, names, f"{self.iiif.rstrip('/')}/{folder}")


def _format_of(data: bytes) -> str:
    with opened(data) as image:
        return {"JPEG": "jpeg", "TIFF": "tiff", "WEBP": "webp"}.get(str(image.format), "png")
