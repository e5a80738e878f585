"""From bytes to faces to renders: what the HTTP routes need, with and without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.cluster.render_shard import read_bundle
from capricious.data.records import Face
from capricious.faces.image import decode
from capricious.model.bundle import Bundle
from capricious.render.sweep import Variant
from serve import metrics
from serve.arguments import PortraitArguments
from serve.shared_chunks import Group, SharedChunkRenderer


@dataclass(frozen=True)
class Annotated:
    """A picture's size in pixels and its faces, largest first."""

    width: int
    height: int
    faces: tuple[Face, ...]

    @property
    def pixels(self) -> int:
        """Of the picture."""
        return self.width * self.height


@dataclass(frozen=True)
class Facts:
    """What the routes need to know of the bundle: its bundle.json, its sha256, and variants per forward pass."""

    info: dict[str, Any]
    sha256: str
    chunk: int


class Pipeline(Protocol):
    """What the routes call. `patient` calls wait where others are refused for overload."""

    async def facts(self) -> Facts:
        """Returns what the bundle is."""

    async def ready(self) -> bool:
        """Says whether faces can be found and rendered now."""

    async def annotate(self, data: bytes, name: str) -> Annotated:
        """Finds the faces of an encoded picture. Raises Rejection where there are none to be found."""

    async def render(self, face: Face, variants: Sequence[Variant], patient: bool) -> np.ndarray:
        """Renders variants of a face, V×R×R×3 uint8, at most `Facts.chunk` of them."""


class Finder:
    """Finds faces. Not thread-safe."""

    def __init__(self, arguments: PortraitArguments, resolution: int):
        self.max_pixels = arguments.max_megapixels * 1_000_000
        self.annotator = Annotator(
            AnnotatorConfig(
                resolution=resolution,
                max_faces=arguments.max_faces,
                detector=arguments.detector,
                landmarks=arguments.landmarks,
            )
        )

    def annotate(self, data: bytes, name: str) -> Annotated:
        """Raises Rejection if `data` is not a picture or shows no usable face."""
        with metrics.stage("decode"):
            picture = decode(data, name=name, max_pixels=self.max_pixels)
        with metrics.stage("annotate"):
            faces = self.annotator.annotate(picture)
        height, width = picture.shape[:2]
        return Annotated(width, height, tuple(faces))


def load_renderer(arguments: PortraitArguments, bundle: Bundle) -> SharedChunkRenderer:
    """Makes the renderer of a replica."""
    cache_bytes = arguments.style_cache_mb * 2**20
    return SharedChunkRenderer(bundle, arguments.device, threads=arguments.threads, cache_bytes=cache_bytes)


class LocalPipeline:
    """All in this process and without Ray, one call after the other: for tests, and as a peer in benchmarks."""

    def __init__(self, arguments: PortraitArguments):
        bundle = read_bundle(arguments.bundle)
        self._finder = Finder(arguments, bundle.generator.config.resolution)
        self._renderer = load_renderer(arguments, bundle)
        # The models are not thread-safe, and two at once would only share the same cores.
        self._worker = ThreadPoolExecutor(1, "pipeline")

    async def facts(self) -> Facts:
        bundle = self._renderer.bundle
        return Facts(bundle.info, bundle.sha256, self._renderer.chunk)

    async def ready(self) -> bool:
        return True

    async def annotate(self, data: bytes, name: str) -> Annotated:
        return await self._run(self._finder.annotate, data, name)

    async def render(self, face: Face, variants: Sequence[Variant], patient: bool) -> np.ndarray:
        group: Group = (face, variants)
        return (await self._run(self._renderer.render_groups, [group]))[0]

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)
