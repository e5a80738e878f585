"""A sweep in the making: rendered group by group, and turned into the files that were asked for."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import tempfile
import zipfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import IO, Any

import numpy as np

from capricious.data.records import Face
from capricious.faces.attributes import Attributes
from capricious.faces.image import QUICK, encode
from capricious.model.bundle import strength_of
from capricious.model.learnt import Learnt
from capricious.render.captions import caption, column_labels, look_label
from capricious.render.composite import AS_THE_BUNDLE_ASKS
from capricious.render.picture import FRAME_SECONDS, SweepResult
from capricious.render.provenance import known
from capricious.render.renderer import fit
from capricious.render.scan import Scan, read_scan
from capricious.render.sheet import contact_sheet, gif
from capricious.render.sweep import SOURCE, Sweep, Variant, guesses, refuse_unlearnt
from serve import metrics
from serve.pipeline import Annotated, Facts, Pipeline
from serve.problems import problem_of
from serve.schemas import MEDIA_TYPES, Composite, PictureFormat

AT_ONCE = 2
"""Groups of one sweep that are under way: one is rendered while the next is on its way. More would push others back."""

NO_PICTURE = Scan(np.zeros((1, 1, 3), np.uint8))
"""Stands in until the upload is decoded a second time, and for good where only faces are asked for."""


def with_label(faces: Sequence[Face], sitter_age: float | None) -> tuple[Face, ...]:
    """Returns the faces with what the caller knows of the largest one, as Annotator.annotate(labels) would."""
    if sitter_age is None:
        return tuple(faces)
    label = Attributes(age=sitter_age)
    attributes = label.or_else(faces[0].attributes)
    first = replace(faces[0], attributes=attributes, attribute_source=attributes.sources(label))
    return (first, *faces[1:])


class SweepInProgress:
    """The sweep of one upload. `groups()` renders; `result` makes files of what is rendered so far, of whole pictures
    once `see()` has decoded theirs.

    Args:
        sweep: what was asked for.
        faces: as annotated.
        facts: of the bundle.
        source_sha256: of the upload.
        deadline: by the event loop's clock; rendering past it raises TimeoutError.

    Raises:
        ConfigError: a variant asks for what the bundle has never seen.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        facts: Facts,
        sweep: Sweep,
        faces: Sequence[Face],
        source_sha256: str,
        deadline: float,
    ):
        self.pipeline = pipeline
        self.facts = facts
        self.deadline = deadline
        self.variants = sweep.variants()
        learnt = Learnt.of_info(facts.info)
        refuse_unlearnt(learnt, self.variants)  # here, not in the model, where the calls of all callers share a batch
        resolution = facts.info["resolution"]
        # Filled in place: SweepResult makes a file of a variant as soon as that and the source are there.
        shape = (len(self.variants), resolution, resolution, 3)
        renders = tuple(np.zeros(shape, np.uint8) for _ in faces)
        fitted = tuple(fit(face, resolution) for face in faces)
        guessed = guesses(learnt, self.variants)
        composite = AS_THE_BUNDLE_ASKS.settled(strength_of(facts.info))
        self.result = SweepResult(
            NO_PICTURE, fitted, sweep, renders, source_sha256, facts.sha256, composite, extrapolated=guessed
        )

    async def groups(self) -> AsyncIterator[list[Variant]]:
        """Renders the sweep, the source first; yields the variants of each group when all faces have them.

        Raises:
            Problem: 429 if nobody has time for the first group. Once begun, a sweep waits instead.
            TimeoutError: the deadline has passed.
        """
        gate = asyncio.Semaphore(AT_ONCE)
        size = self.facts.chunk

        async def render(number: int, start: int) -> None:
            async with gate:
                part = self.variants[start : start + size]
                patient = (number, start) != (0, 0)
                renders = await self.pipeline.render(self.result.faces[number], part, patient)
                self.result.renders[number][start : start + size] = renders

        starts = range(0, len(self.variants), size)
        # The semaphore lets them in in this order: all faces of the first group, then of the second, …
        tasks = [
            [asyncio.create_task(render(number, start)) for number in range(len(self.result.faces))] for start in starts
        ]
        try:
            for start, waiting in zip(starts, tasks, strict=True):
                async with asyncio.timeout_at(self.deadline):
                    await asyncio.gather(*waiting)
                yield self.variants[start : start + size]
        finally:
            for waiting in tasks:
                for task in waiting:
                    task.cancel()

    async def finished(self) -> None:
        """Renders all of it."""
        async for _ in self.groups():
            pass

    async def see(self, data: bytes, name: str, preview: int = 0) -> None:
        """Decodes the picture. Only for a request that has been taken on: it is the largest thing in memory.

        Args:
            preview: longer side of whole pictures in pixels, at most; 0 leaves them as they are.
        """
        seen = replace(self.result, scan=await asyncio.to_thread(read_scan, data, name=name))
        self.result = await asyncio.to_thread(seen.preview, preview) if preview else seen

    def wanted(self, variants: Sequence[Variant]) -> list[Variant]:
        """Leaves the source out, which is the sitter as the network sees it, unless there is nothing else."""
        return [variant for variant in variants if variant.name != SOURCE or len(self.variants) == 1]


async def admitted(groups: AsyncIterator[list[Variant]]) -> AsyncIterator[list[Variant]]:
    """Waits for the first group, so that what goes wrong until then still gets its own status; returns all groups."""
    first = await anext(groups)

    async def all_of_them() -> AsyncIterator[list[Variant]]:
        yield first
        async for group in groups:
            yield group

    return all_of_them()


async def begin(
    pipeline: Pipeline,
    annotated: Annotated,
    data: bytes,
    sweep: Sweep,
    sitter_age: float | None,
    deadline: float,
) -> SweepInProgress:
    """Prepares the sweep of an upload.

    Args:
        sitter_age: true age of the largest face, where the caller knows it.
        deadline: by the event loop's clock.
    """
    faces = with_label(annotated.faces, sitter_age)
    source_sha256 = hashlib.sha256(data).hexdigest()
    return SweepInProgress(pipeline, await pipeline.facts(), sweep, faces, source_sha256, deadline)


def sheet(result: SweepResult, composite: Composite) -> bytes:
    """Returns the contact sheet as PNG; of whole pictures, a row for each look."""
    if composite == "face":
        return result.sheet()
    small = result.preview(512)
    ages = small.sweep.ages or (None,)
    looks = small.sweep.looks()
    rows = [[small.picture, *(small.painting(small.sweep.at(age, look).name).srgb for age in ages)] for look in looks]
    columns, below = column_labels(small.sweep, small.extrapolated), caption(small.extrapolated)
    drawn = contact_sheet(rows, list(map(look_label, looks)), columns, caption=below)
    return result.stamped(encode(drawn, "png", compression=QUICK))


def animation(result: SweepResult, composite: Composite) -> bytes:
    """Returns the ages and back as a GIF; of faces, all of them side by side."""
    if composite == "painting":
        return result.animation()
    ages = result.sweep.ages or (None,)
    names = [result.sweep.at(age, look).name for look in result.sweep.looks() for age in ages]
    frames = [np.hstack([result.crop(face, name) for face in range(len(result.faces))]) for name in names]
    return result.stamped(gif(frames, FRAME_SECONDS, ping_pong=True))


def pictures(result: SweepResult, variant: Variant, composite: Composite, format: PictureFormat) -> dict[str, bytes]:
    """Returns the files of one variant: file name → content."""
    with metrics.stage("compose"):
        suffix = "jpg" if format == "jpeg" else format
        if composite == "painting":
            return {f"{variant.name}.{suffix}": result.file(variant.name, format)}
        return {
            f"face-{number + 1}_{variant.name}.{suffix}": result.crop_file(number, variant.name, format)
            for number in range(len(result.faces))
        }


def archive(result: SweepResult, variants: Sequence[Variant], composite: Composite, format: PictureFormat) -> IO[bytes]:
    """Returns a ZIP of all variants, to be read from its start and closed by the caller."""
    # On disk, not in memory: eight paintings of 60 megapixels are a gigabyte.
    spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the last chunk is sent)
    with zipfile.ZipFile(spool, "w", zipfile.ZIP_STORED) as out:
        for variant in variants:
            for name, content in pictures(result, variant, composite, format).items():
                # ZipInfo's default date is fixed (1980), so the same sweep gives the same bytes.
                out.writestr(zipfile.ZipInfo(name), content)
    spool.seek(0)
    return spool


async def lines(
    sweep: SweepInProgress, rendered: AsyncIterator[list[Variant]], composite: Composite, format: PictureFormat
) -> AsyncIterator[bytes]:
    """Yields the sweep as JSON lines: "sweep" first, a "variant" each as it is done, and "done" or "problem" last."""
    result = sweep.result
    wanted = sweep.wanted(sweep.variants)
    yield _line(
        "sweep",
        source_sha256=result.source_sha256,
        bundle_sha256=result.bundle_sha256,
        composite=composite,
        media_type=MEDIA_TYPES[format],
        variants=[{"name": v.name, "changes": v.changes} for v in wanted],
        faces=[
            {"attributes": known(face.attributes), "attribute_source": face.attribute_source} for face in result.faces
        ],
    )
    try:
        async for variants in rendered:
            for variant in sweep.wanted(variants):
                files = await asyncio.to_thread(pictures, result, variant, composite, format)
                images = [base64.b64encode(content).decode("ascii") for content in files.values()]
                yield _line("variant", name=variant.name, changes=variant.changes, images=images)
    except Exception as error:  # noqa: BLE001 (the status is sent already; the caller learns it from the last line)
        problem = problem_of(error)
        metrics.rejected(problem.reason)
        yield _line("problem", problem=problem.body)
        return
    yield _line("done", variants=len(wanted))


def _line(kind: str, **fields: Any) -> bytes:
    return json.dumps({"kind": kind, **fields}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


BOUNDARY = "capricious-variant"


async def parts(
    sweep: SweepInProgress, rendered: AsyncIterator[list[Variant]], composite: Composite, format: PictureFormat
) -> AsyncIterator[bytes]:
    """Yields the sweep as multipart/mixed, a picture a part; a problem on the way is the last part."""
    try:
        async for variants in rendered:
            for variant in sweep.wanted(variants):
                files = await asyncio.to_thread(pictures, sweep.result, variant, composite, format)
                for name, content in files.items():
                    yield _part(MEDIA_TYPES[format], content, f'attachment; filename="{name}"')
    except Exception as error:  # noqa: BLE001 (as in lines())
        problem = problem_of(error)
        metrics.rejected(problem.reason)
        yield _part("application/problem+json", json.dumps(problem.body).encode(), "inline")
    yield f"--{BOUNDARY}--\r\n".encode()


def _part(media_type: str, content: bytes, disposition: str) -> bytes:
    head = (
        f"--{BOUNDARY}\r\nContent-Type: {media_type}\r\nContent-Disposition: {disposition}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n"
