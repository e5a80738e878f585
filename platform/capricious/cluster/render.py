"""Render at any scale: a collection and a bundle in, the files of every portrait and a ledger of all of them out."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import capricious
from capricious.annotate.annotator import Annotator, AnnotatorConfig, parser_sha256
from capricious.cluster.ledger import Row, done_shards, has_status, read_rows, render_id, rows_of, write_part
from capricious.cluster.plan import BatchConfig, Plan, exit_code, make_plan
from capricious.cluster.publish import publish
from capricious.cluster.session import cpu_count, require_cpus
from capricious.cluster.shards import ShardWorker, run_shards
from capricious.data import storage
from capricious.data.annotations import PreparedAnnotations
from capricious.data.collections import Source
from capricious.data.records import Face
from capricious.data.rights import is_open
from capricious.errors import Rejection
from capricious.model.bundle import Bundle, load_bundle
from capricious.render.composite import CompositeConfig
from capricious.render.deliverables import Deliverable, DeliverablesConfig
from capricious.render.picture import render_picture
from capricious.render.renderer import Renderer
from capricious.render.scan import read_scan
from capricious.render.sweep import Sweep


@dataclass(frozen=True, kw_only=True)
class RenderConfig(BatchConfig):
    """What to render and how."""

    bundle: str
    """Model bundle: a folder or an s3:// address."""
    prepared: str = ""
    """Prepared dataset of the same collection: its annotations are used, and nothing is annotated anew."""
    ages: str = "10:80:10"
    """Ages in years: from:to:step, from..to, or a list 20,40,60."""
    genders: str = ""
    """Also render as: female, male or both, separated by a comma."""
    glasses: str = ""
    """Also render with: none, reading, sun, separated by commas."""
    smiles: str = ""
    """Also render with so much of a smile, 0…1, written as the ages."""
    emotions: str = ""
    """Also render as neutral, happy, sad, surprise, fear, disgust, anger, contempt, separated by commas."""
    style: str = ""
    """A second portrait, whose style (colours, hair, light) is given to every sitter."""
    styles: str = "1"
    """How much of it, 0…1, written as the ages: 0:1:0.25 is the way from one to the other."""
    rights: Literal["open", "any"] = "open"
    """open leaves out what its keeper states to be neither CC0 nor in the public domain; with a rights_column, also
    what states nothing."""
    exclude: str = ""
    """Text file of pictures to leave out: in each line an address, a file name, or a file name without its ending."""
    retry: Literal["nothing", "failed"] = "nothing"
    """failed tries the portraits that failed in an earlier run once more, and only them."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks run; with cuda, each worker has a GPU."""
    shard_size: int = 64
    """Largest number of pictures in a shard, the most that a crash can lose."""
    deliverables: DeliverablesConfig = field(default_factory=DeliverablesConfig)
    composite: CompositeConfig = field(default_factory=CompositeConfig)
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    """How faces are found; the resolution is the bundle's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sweep  # noqa: B018  (a sweep that cannot be is refused here)

    @property
    def sweep(self) -> Sweep:
        """The sweep that the texts ask for."""
        styles = self.styles if self.style else ""
        return Sweep.parse(self.ages, self.genders, self.glasses, self.smiles, self.emotions, styles)


@dataclass(frozen=True)
class RenderOutcome:
    """What came of it, in portraits."""

    pictures: int
    rendered: int
    skipped: int
    reasons: dict[str, int]

    def exit_code(self, failure_share: float) -> int:
        """0 when all went well, 3 when some failed, 1 when too many or all did, or none was left to render."""
        tried = self.pictures - self.skipped
        return exit_code(tried, self.rendered, tried - self.rendered, failure_share) if tried else 1


class Gate:
    """Which pictures are left alone, and why."""

    def __init__(self, config: RenderConfig):
        self._open = config.rights == "open"
        self._must_state = bool(config.rights_column)
        self._excluded: frozenset[str] = frozenset()
        if config.exclude:
            lines = storage.read(config.exclude).decode("utf-8").splitlines()
            self._excluded = frozenset(line.strip() for line in lines if line.strip())

    @property
    def sha256(self) -> str:
        """Fingerprint of the exclusion list."""
        return hashlib.sha256("\n".join(sorted(self._excluded)).encode()).hexdigest()

    def check(self, source: Source) -> Rejection | None:
        """Returns why a picture is left alone, or None for one that may be rendered."""
        file = PurePosixPath(source.uri.rpartition("!")[2] or source.uri)
        if not self._excluded.isdisjoint((source.uri, file.name, file.stem)):
            return Rejection("exclude", "excluded", "it is on the exclusion list")
        if self._open and not is_open(source.license) and (source.license or self._must_state):
            stated = f"its rights are stated as {source.license!r}" if source.license else "its rights are not stated"
            return Rejection("rights", "not-open", f"{stated}; needed is CC0 or the public domain (or --rights any)")
        return None


class RenderShard(ShardWorker):
    """Renders one shard of portraits in a Ray Data actor."""

    KIND = "render"

    def __init__(self, config: RenderConfig, plan: Plan, retry: frozenset[int] = frozenset()):
        super().__init__(plan.out)
        self.config, self.plan, self.retry = config, plan, retry
        self.gate = Gate(config)
        self.renderer = Renderer(read_bundle(config.bundle), config.device)
        resolution = self.renderer.resolution
        self.prepared: PreparedAnnotations | None = None
        if config.prepared:
            self.prepared = PreparedAnnotations(config.prepared, resolution)
        if config.style or not config.prepared:
            self.annotator = Annotator(replace(config.annotator, resolution=resolution, device=config.device))
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
        for source, result in self.attempt(todo, self._write):
            attempt = attempts.get(source.uri, 0) + 1
            if isinstance(result, dict):
                rejection = Rejection(result["stage"], result["reason"], result["detail"])
                rows[source.uri] = rows_of(self.plan, source, "failed", attempt, rejection)
            else:
                rows[source.uri] = [{**row, "attempts": attempt} for row in result]
        write_part(self.out, shard, (row for source in sources for row in rows[source.uri]))
        failed = sum(found[0]["status"] == "failed" for found in rows.values())
        return {"done": len(rows) - failed, "failed": failed}

    def _write(self, source: Source, data: bytes) -> list[Row]:
        """Writes the files of one portrait and returns their rows."""
        rows = []
        for (product, name, content), facts in self.files(source, data):
            file = f"{folder_of(source.uri)}/{name}"
            storage.write_atomic(storage.join(self.out, file), content)
            row = {
                "render_id": render_id(self.plan, source.uri, product),
                "uri": source.uri,
                "product": product,
                "status": "ok",
                "file": file,
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "rights": source.license or None,
            }
            rows.append({**row, **facts})
        return rows

    def files(self, source: Source, data: bytes) -> Iterator[tuple[Deliverable, dict[str, Any]]]:
        """Makes the files of one portrait, each with what is the same for all of them: faces, source_sha256."""
        with self.stopwatch.stage("decode"):
            scan = read_scan(data, name=source.uri)
        source_sha256 = hashlib.sha256(data).hexdigest()
        with self.stopwatch.stage("annotate"):
            faces = self._faces(source, source_sha256, scan.srgb)
        with self.stopwatch.stage("render"):
            result = render_picture(
                scan,
                faces,
                self.renderer,
                self.config.sweep,
                source_sha256=source_sha256,
                source_uri=source.uri,
                composite=self.config.composite,
                style=self.style,
            )
        facts = {"faces": len(faces), "source_sha256": source_sha256}
        for deliverable in self.config.deliverables.files(result, data, folder_of(source.uri)):
            yield deliverable, facts

    def _faces(self, source: Source, source_sha256: str, picture: Any) -> list[Face]:
        if self.prepared is not None:
            return self.prepared.faces(source.uri, source_sha256)
        return self.annotator.annotate(picture, source.labels)


def read_bundle(uri: str) -> Bundle:
    """Loads a bundle from a folder or an object store."""
    if "://" not in uri:
        return load_bundle(uri)
    with tempfile.TemporaryDirectory() as folder:
        storage.download_folder(uri, folder)
        return load_bundle(folder)


def folder_of(uri: str) -> str:
    """Names the folder of a portrait below OUT: readable (often an accession number), different for every address."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", PurePosixPath(uri).stem).strip("-")[:60]
    return f"portraits/{stem}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def asked(config: RenderConfig) -> dict[str, Any]:
    """Everything besides the collection that determines what is rendered."""
    return {
        "code_version": capricious.__version__,
        "bundle_sha256": read_bundle(config.bundle).sha256,
        "sweep": asdict(config.sweep),
        "products": config.deliverables.products(config.sweep),
        "deliverables": asdict(config.deliverables),
        "composite": asdict(config.composite),
        "style_sha256": hashlib.sha256(storage.read(config.style)).hexdigest() if config.style else None,
        "rights": config.rights,
        "exclude_sha256": Gate(config).sha256,
        "prepared_sha256": PreparedAnnotations.fingerprint(config.prepared) if config.prepared else None,
        "annotator": asdict(config.annotator),
        "parser_sha256": parser_sha256(config.annotator),
    }


def located(config: RenderConfig) -> RenderConfig:
    """Returns the configuration with absolute paths: workers have other working directories."""

    def absolute(uri: str) -> str:
        return storage.absolute(uri) if uri else ""

    return replace(
        config,
        bundle=absolute(config.bundle),
        prepared=absolute(config.prepared),
        exclude=absolute(config.exclude),
        style=absolute(config.style),
    )


def render(config: RenderConfig) -> RenderOutcome:
    """Renders a collection on the connected Ray cluster; resumes what an earlier run has left.

    Raises:
        CapriciousError: nothing to render, the output folder belongs to another plan, too few CPUs.
    """
    config = located(config)
    workers = config.workers or cpu_count()
    require_cpus(workers, f"render with {workers} workers")
    plan = make_plan(config, asked(config), workers)
    done = set(done_shards(plan))
    retry = frozenset(s for s in done if config.retry == "failed" and has_status(plan.out, s, "failed"))
    todo = [shard for shard in range(plan.shards) if shard not in done or shard in retry]
    arguments = {"config": config, "plan": plan, "retry": retry}
    run_shards(RenderShard, arguments, plan, todo, workers, "render", gpus=int(config.device == "cuda"))
    storage.remove_partial(plan.out)
    report = publish(plan)
    return RenderOutcome(report["portraits"], report["ok"], report["skipped"], report["reasons"])
