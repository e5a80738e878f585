"""Render at any scale: a collection and a bundle in, sweeps of every picture and a ledger out."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa

from capricious.annotate.annotator import Annotator, AnnotatorConfig, parser_sha256
from capricious.cluster.plan import BatchConfig, exit_code, make_plan
from capricious.cluster.session import cpu_count, require_cpus
from capricious.cluster.shards import ShardWorker, run_shards
from capricious.data import storage
from capricious.data.collections import Source
from capricious.data.tables import read_table, write_table
from capricious.model.bundle import Bundle, load_bundle
from capricious.render.gallery import Exhibit, gallery_page
from capricious.render.picture import SweepResult, render_picture
from capricious.render.renderer import Renderer
from capricious.render.scan import read_scan
from capricious.render.sweep import SOURCE, Sweep

LEDGER_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("status", pa.string()),  # ok | failed
        ("stage", pa.string()),  # where it failed, and why; null when ok
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("folder", pa.string()),  # below OUT; null when failed
        ("faces", pa.int32()),
        ("source_sha256", pa.string()),
        ("files", pa.map_(pa.string(), pa.string())),  # name → sha256
    ]
)


@dataclass(frozen=True, kw_only=True)
class RenderConfig(BatchConfig):
    """What to render and how."""

    bundle: str
    """Model bundle: a folder or an s3:// address."""
    ages: str = "10:80:10"
    """Ages in years: from:to:step, or a list 20,40,60."""
    genders: str = ""
    """Also render as: female, male or both, separated by a comma."""
    glasses: str = ""
    """Also render with: none, reading, sun, separated by commas."""
    paintings: Literal["jpeg", "png", "none"] = "jpeg"
    """File format of the whole pictures with their sitters at each age; none for sheets and GIFs alone."""
    shard_size: int = 64
    """Largest number of pictures in a shard, the most that a crash can lose."""
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    """How faces are found; the resolution is the bundle's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sweep  # noqa: B018  (a sweep that cannot be is refused here)

    @property
    def sweep(self) -> Sweep:
        """The sweep that the texts ask for."""
        return Sweep.parse(self.ages, self.genders, self.glasses)


@dataclass(frozen=True)
class RenderOutcome:
    """What came of it."""

    pictures: int
    rendered: int
    reasons: dict[str, int]

    def exit_code(self, failure_share: float) -> int:
        """0 when all went well, 3 when some failed, 1 when too many or all did."""
        return exit_code(self.pictures, self.rendered, self.pictures - self.rendered, failure_share)


class RenderShard(ShardWorker):
    """Renders one shard of pictures in a Ray Data actor."""

    def __init__(self, config: RenderConfig, out: str):
        super().__init__(out)
        self.config = config
        bundle = read_bundle(config.bundle)
        self.renderer = Renderer(bundle)
        self.annotator = Annotator(replace(config.annotator, resolution=self.renderer.resolution))

    def run_shard(self, shard: int, sources: list[Source]) -> dict[str, int]:
        rows = []
        for source, result in self.attempt(sources, self._render):
            failed = {"uri": source.uri, "status": "failed", **result}
            rows.append(result if "status" in result else failed)
        write_table(ledger_uri(self.out, shard), rows, LEDGER_SCHEMA)
        done = sum(row["status"] == "ok" for row in rows)
        return {"done": done, "failed": len(rows) - done}

    def _render(self, source: Source, data: bytes) -> dict[str, Any]:
        scan = read_scan(data, name=source.uri)
        faces = self.annotator.annotate(scan.srgb, source.labels)
        source_sha256 = hashlib.sha256(data).hexdigest()
        sweep = render_picture(scan, faces, self.renderer, self.config.sweep, source_sha256=source_sha256)
        folder = f"pictures/{folder_name(source.uri)}"
        files = {}
        for name, content in self._files(sweep):
            storage.write_atomic(storage.join(self.out, folder, name), content)
            files[name] = hashlib.sha256(content).hexdigest()
        return {
            "uri": source.uri,
            "status": "ok",
            "folder": folder,
            "faces": len(faces),
            "source_sha256": source_sha256,
            "files": files,
        }

    def _files(self, sweep: SweepResult) -> Any:
        yield "sheet.png", sweep.sheet()
        yield "sweep.gif", sweep.animation()
        format = self.config.paintings
        if format != "none":
            for variant in sweep.sweep.variants():
                if variant.name != SOURCE:
                    yield f"{variant.name}.{'jpg' if format == 'jpeg' else format}", sweep.file(variant.name, format)


def read_bundle(uri: str) -> Bundle:
    """Loads a bundle from a folder or an object store."""
    if "://" not in uri:
        return load_bundle(uri)
    with tempfile.TemporaryDirectory() as folder:
        storage.download_folder(uri, folder)
        return load_bundle(folder)


def folder_name(uri: str) -> str:
    """Names the folder of a picture: readable, and different for every address."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", PurePosixPath(uri).stem).strip("-")[:60]
    return f"{stem}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def ledger_uri(out: str, shard: int) -> str:
    """Names one shard of the ledger; its presence says that the shard is done."""
    return storage.join(out, "ledger", f"part-{shard:05d}.parquet")


def read_ledger(out: str) -> list[dict[str, Any]]:
    """Reads the ledger as rows of LEDGER_SCHEMA, in the order of the collection."""
    parts = storage.list_files(storage.join(out, "ledger"))
    tables = [read_table(part) for part in parts]
    return [row for table in tables for row in table.to_pylist(maps_as_pydicts="strict")]


def render(config: RenderConfig) -> RenderOutcome:
    """Renders a collection on the connected Ray cluster; resumes what an earlier run has left.

    Raises:
        CapriciousError: nothing to render, the output folder belongs to another plan, too few CPUs.
    """
    config = replace(config, bundle=storage.absolute(config.bundle))
    workers = config.workers or cpu_count()
    require_cpus(workers, f"render with {workers} workers")
    asked = {
        "bundle_sha256": read_bundle(config.bundle).sha256,
        "sweep": asdict(config.sweep),
        "paintings": config.paintings,
        "annotator": asdict(config.annotator),
        "parser_sha256": parser_sha256(config.annotator),
    }
    plan = make_plan(config, asked, workers)
    out = plan.out
    todo = [shard for shard in range(plan.shards) if not storage.exists(ledger_uri(out, shard))]
    run_shards(RenderShard, {"config": config, "out": out}, plan, todo, workers, "render")
    ledger = read_ledger(out)
    done = [row for row in ledger if row["status"] == "ok"]
    introduction = f"{len(done)} of {len(ledger)} pictures, re-rendered at other ages."
    page = gallery_page(read_exhibits(out), title="Sweeps", introduction=introduction)
    storage.write_atomic(storage.join(out, "index.html"), page.encode())
    reasons = Counter(f"{row['stage']}: {row['reason']}" for row in ledger if row["status"] == "failed")
    return RenderOutcome(len(ledger), len(done), dict(reasons.most_common()))


def read_exhibits(out: str) -> list[Exhibit]:
    """Returns every rendered picture of an output folder as an exhibit for the gallery, paths relative to it."""
    return [
        Exhibit(
            title=PurePosixPath(row["uri"]).stem,
            sitter="one sitter" if row["faces"] == 1 else f"{row['faces']} sitters",
            source=row["uri"],
            sheet=f"{row['folder']}/sheet.png",
            animation=f"{row['folder']}/sweep.gif",
        )
        for row in read_ledger(out)
        if row["status"] == "ok"
    ]
