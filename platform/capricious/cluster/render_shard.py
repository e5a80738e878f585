"""One shard of a render: portraits are looked at, rendered together, put back, and written with their rows."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from capricious.annotate.annotator import Annotator
from capricious.cluster.ledger import Row, read_rows, render_id, rows_of, write_part
from capricious.cluster.plan import Plan
from capricious.cluster.render_config import Gate, RenderConfig
from capricious.cluster.shards import ShardWorker, tried_together
from capricious.data import storage
from capricious.data.annotations import PreparedAnnotations
from capricious.data.collections import Source
from capricious.data.records import Face
from capricious.data.titles import title_of
from capricious.errors import Rejection
from capricious.model.bundle import DEFAULT, Bundle, load_bundle
from capricious.render.content_credentials import ContentCredentials
from capricious.render.deliverables import WHOLE, Deliverable
from capricious.render.picture import FACES, Sitting, SweepResult, render_pictures
from capricious.render.renderer import Renderer
from capricious.render.scan import read_scan

Result = TypeVar("Result")

GROUP_PIXELS = 50_000_000
"""Portraits that hold more pixels than that together wait for no others."""

WRITE_BEHIND = 4
"""Files that are being written while the next is made."""

Waiting = tuple[Source, Sitting, bytes]


class RenderShard(ShardWorker):
    """Renders one shard of portraits in a Ray Data actor."""

    KIND = "render"

    def __init__(self, config: RenderConfig, plan: Plan, retry: frozenset[int] = frozenset()):
        super().__init__(plan.out)
        self.config, self.plan, self.retry = config, plan, retry
        self.gate = Gate(config, plan.fields["rights_stated"] > 0)
        self.renderer = Renderer(read_bundle(config.bundle), config.device)
        self.prepared = PreparedAnnotations(config.prepared) if config.prepared else None
        if config.style or not config.prepared:
            asked = replace(config.annotator, resolution=self.renderer.resolution, device=config.device)
            self.annotator = Annotator(asked)
        self.credentials: ContentCredentials | None = None
        if (signed := config.credentials).certificate:
            certificate, key = storage.read(signed.certificate), storage.read(signed.private_key)
            self.credentials = ContentCredentials(certificate, key, signed.algorithm)
        self.style: Face | None = None
        if config.style:
            picture = read_scan(storage.read(config.style), name=config.style).srgb
            self.style = self.annotator.annotate(picture)[0]

    def run_shard(self, shard: int, sources: list[Source]) -> dict[str, int]:
        rows: dict[str, list[Row]] = {}
        attempts: dict[str, int] = {}
        if shard in self.retry:
            for row in read_rows(self.out, shard):
                if row["status"] == "failed":
                    attempts[row["uri"]] = row["attempts"]
                else:
                    rows.setdefault(row["uri"], []).append(row)
        for source in sources:
            if source.uri not in rows and (closed := self.gate.check(source)):
                rows[source.uri] = rows_of(self.plan, source, "skipped", 0, closed)
        todo = [source for source in sources if source.uri not in rows]
        for source, result in self.each(todo, self._write):
            attempt = attempts.get(source.uri, 0) + 1
            if isinstance(result, dict):
                rejection = Rejection(result["stage"], result["reason"], result["detail"])
                rows[source.uri] = rows_of(self.plan, source, "failed", attempt, rejection)
            else:
                rows[source.uri] = [{**row, "attempts": attempt} for row in result]
        write_part(self.out, shard, [row for source in sources for row in rows[source.uri]])
        failed = sum(found[0]["status"] == "failed" for found in rows.values())
        return {"done": len(rows) - failed, "failed": failed}

    def each(
        self, sources: Sequence[Source], do: Callable[[Source, SweepResult, bytes], Result]
    ) -> Iterator[tuple[Source, Result | dict[str, str]]]:
        """Renders each source and does something with its sweep; yields the result, or the row of a reject.

        Portraits wait for each other until their faces fill the forward passes of the renderer.
        """
        waiting: list[Waiting] = []
        for source, found in self.attempt(sources, self._sit):
            if isinstance(found, dict):
                yield source, found
                continue
            waiting.append((source, *found))
            if self.one_by_one or _are_enough(waiting):
                yield from self._together(waiting, do)
                waiting = []
        if waiting:
            yield from self._together(waiting, do)

    def _sit(self, source: Source, data: bytes) -> tuple[Sitting, bytes]:
        source_sha256 = hashlib.sha256(data).hexdigest()
        with self.stopwatch.stage("annotate"):  # before decoding, which a scan that prepare rejected is not worth
            known = self.prepared.faces(source, source_sha256) if self.prepared is not None else None
        with self.stopwatch.stage("decode"):
            scan = read_scan(data, name=source.uri)
        with self.stopwatch.stage("annotate"):
            faces = self.annotator.annotate(scan.srgb, source.labels) if known is None else known
        return Sitting(scan, tuple(faces), source_sha256, source.uri), data

    def _together(
        self, waiting: list[Waiting], do: Callable[[Source, SweepResult, bytes], Result]
    ) -> Iterator[tuple[Source, Result | dict[str, str]]]:
        results = tried_together(
            waiting,
            lambda each: each[0].uri,
            lambda some: self._render([sitting for _, sitting, _ in some]),
            lambda each, result: do(each[0], result, each[2]),
        )
        yield from zip((source for source, _, _ in waiting), results, strict=True)

    def _render(self, sittings: list[Sitting]) -> list[SweepResult]:
        config = self.config
        with self.stopwatch.stage("render"):
            return render_pictures(sittings, self.renderer, config.sweep, composite=config.composite, style=self.style)

    def files(self, result: SweepResult, data: bytes) -> Iterator[Deliverable]:
        """Makes the files of one portrait, one after the other."""
        files = self.config.deliverables.files(result, data, folder_of(result.source_uri))
        while True:
            with self.stopwatch.stage("make"):
                file = next(files, None)
            if file is None:
                return
            product, name, content = file
            if self.credentials is not None:
                with self.stopwatch.stage("sign"):
                    content = self.credentials.sign(content, name, result.record(product))
            yield product, name, content

    def _write(self, source: Source, result: SweepResult, data: bytes) -> list[Row]:
        """Writes the files of one portrait and returns their rows; where that fails, none of its files are left."""
        try:
            return self._write_behind(source, result, data)
        except BaseException:
            with suppress(OSError):  # a store that is away; the first error is the one to tell
                storage.remove_folder(storage.join(self.out, folder_of(source.uri)))
            raise

    def _write_behind(self, source: Source, result: SweepResult, data: bytes) -> list[Row]:
        """Writes each file while the next is being made."""
        rows: list[Row] = []
        writing: deque[Future[None]] = deque()
        with ThreadPoolExecutor(WRITE_BEHIND) as threads:
            for product, name, content in self.files(result, data):
                file = f"{folder_of(source.uri)}/{name}"
                if len(writing) == WRITE_BEHIND:  # files of a scan are large: not all of them wait in memory
                    with self.stopwatch.stage("write"):
                        writing.popleft().result()
                writing.append(threads.submit(storage.write_atomic, storage.join(self.out, file), content))
                row = {
                    "render_id": render_id(self.plan, source.uri, product),
                    "uri": source.uri,
                    "product": product,
                    "status": "ok",
                    "file": file,
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "bytes": len(content),
                    "faces": len(result.faces),
                    "extrapolated": product in (result.extrapolated | WHOLE if result.extrapolated else ()),
                    "source_sha256": result.source_sha256,
                    "rights": source.license or None,
                }
                rows.append(row)
            with self.stopwatch.stage("write"):
                for written in writing:
                    written.result()
        return rows


def _are_enough(waiting: list[Waiting]) -> bool:
    """Says whether portraits should be rendered without waiting for others."""
    pixels = sum(sitting.scan.srgb.size // 3 for _, sitting, _ in waiting)
    return pixels > GROUP_PIXELS or sum(len(sitting.faces) for _, sitting, _ in waiting) >= FACES


def read_bundle(uri: str) -> Bundle:
    """Loads a bundle from a folder or an object store, or model.bundle.DEFAULT."""
    if "://" not in uri or uri == DEFAULT:
        return load_bundle(uri)
    with tempfile.TemporaryDirectory() as folder:
        storage.download_folder(uri, folder)
        return load_bundle(folder)


def folder_of(uri: str) -> str:
    """Names the folder of a portrait below OUT: readable (often an accession number), different for every address.

    The title tells nothing apart where all files are called alike, so the hash must: in 64 bits, two of 10 million
    addresses have the same with a chance of 3 in a million.
    """
    title = re.sub(r"[^A-Za-z0-9]+", "-", title_of(uri)).strip("-")[:60]
    return f"portraits/{title}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
