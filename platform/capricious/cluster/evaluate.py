"""Evaluate at any scale: bundles and portraits in, measurements in shards, a report out.

::

    out/prepared/…                    collections that were given as they are, prepared
    out/plan/part-00000.parquet       which portraits shard 0 measures
    out/_plan.json                    what was asked for; written last
    out/measured/part-00000.parquet   their measurements (evaluate.measure.SCHEMA); its presence: the shard is done
    out/rejects/part-00000.parquet    portraits that could not be measured, and why
    out/report.json, out/report.html
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from PIL import Image

from capricious.annotate.annotator import AnnotatorConfig, parser_sha256
from capricious.annotate.crop_reader import CropReader
from capricious.cluster.evaluation_data import Chosen, Dataset, choose, read_chosen, training_images, write_chosen
from capricious.cluster.plan import Plan, begin, begun, exit_code, shard_size
from capricious.cluster.prepare import PrepareConfig, prepare
from capricious.cluster.render_shard import read_bundle
from capricious.cluster.session import worker_count
from capricious.cluster.shards import ShardWorker, bugs_as_rejections, run_shards, tried_together
from capricious.data import storage
from capricious.data.ahead import ahead
from capricious.data.prepared import MANIFEST
from capricious.data.records import REJECT_SCHEMA, Face, Portrait
from capricious.data.tables import part_numbers, read_table, write_table
from capricious.errors import CapriciousError, ConfigError
from capricious.evaluate.evaluation import BundleInfo, evaluation
from capricious.evaluate.evaluation_report import report_page
from capricious.evaluate.measure import PUT_BACK, SCHEMA, Measurer, extractor_hashes, missing_extractors
from capricious.evaluate.measured_cache import cached
from capricious.model.bundle import DEFAULT
from capricious.render.composite import AS_THE_BUNDLE_ASKS, put_back
from capricious.render.picture import FACES
from capricious.render.renderer import Renderer, fit
from capricious.render.sweep import Sweep, parse_ages

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
MEASURED = "measured"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to evaluate, and on which portraits."""

    out: str
    """Folder or s3:// address of the report. The same command again resumes."""
    bundles: tuple[str, ...] = ()
    """Model bundles to score, folders or s3:// addresses; by default the one that ships with Capricious."""
    compare: tuple[str, ...] = ()
    """Two bundles to score and to put side by side, with paired tests: the second against the first."""
    photographs: tuple[str, ...] = ()
    """Prepared datasets, or collections of photographs, which are prepared first."""
    paintings: tuple[str, ...] = ()
    """The same of paintings."""
    split: Literal["test", "train", "all"] = "test"
    """Which part of prepared datasets; collections are measured whole."""
    portraits: int = 1000
    """At most so many portraits of each dataset or collection, spread evenly; 0 for all."""
    ages: str = "8:80:8"
    """Requested ages in years: from:to:step, or a list."""
    resolution: int = 0
    """Side in pixels at which pictures are compared; 0 for that of the largest bundle."""
    put_back: bool = True
    """Measure the renders as they are delivered, too: put back into their portraits. Doubles the number of pictures."""
    allow_training_images: bool = False
    """Score bundles on pictures that they were trained on, and say so in red."""
    shard_size: int = 64
    """Largest number of portraits in a shard, the most that a crash can lose."""
    workers: int = 0
    """Ray actors, one CPU each; 0 for one per CPU that is there now."""
    failure_share: float = 0.1
    """Above this share of portraits that cannot be measured the exit code is 1 instead of 3."""
    accept_failures: bool = False
    """Exit with 0 where it would be 3: for Ray's job server and KubeRay, to whom all but 0 is a failed job."""
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    """How collections are prepared; the resolution is the report's."""

    def __post_init__(self) -> None:
        if len(self.compare) not in (0, 2) or len(set(self.compare)) < len(self.compare):
            raise ConfigError(f"compare must name two bundles, found: {', '.join(self.compare)}")
        if not self.photographs + self.paintings:
            raise ConfigError("photographs or paintings must name something to measure on")
        if self.portraits < 0 or self.workers < 0 or self.shard_size < 1:
            raise ConfigError("portraits and workers must not be negative, and shard_size at least 1")
        if len(self.sweep.ages) < 2 or list(self.sweep.ages) != sorted(self.sweep.ages):
            raise ConfigError(f"ages must be two or more, ascending; found: {self.ages!r}")

    @property
    def all_bundles(self) -> tuple[str, ...]:
        """The bundles to score, each once."""
        return tuple(dict.fromkeys([*self.compare, *self.bundles])) or (DEFAULT,)

    @property
    def sweep(self) -> Sweep:
        """The sweep that the ages ask for."""
        return Sweep(parse_ages(self.ages))


@dataclass(frozen=True)
class EvaluateOutcome:
    """What came of it."""

    portraits: int
    measured: int
    reasons: dict[str, int]
    report: dict[str, Any]

    def exit_code(self, failure_share: float) -> int:
        """0 when all went well, 3 when some failed, 1 when too many or all did."""
        return exit_code(self.portraits, self.measured, self.portraits - self.measured, failure_share)


Rendered = tuple[Face, dict[str, tuple[np.ndarray, np.ndarray]]]
"""A face at the report's resolution; by bundle its variants as the generator makes them, and as they are delivered but
for their strength."""


class MeasureShard(ShardWorker):
    """Renders and measures one shard of portraits in a Ray Data actor.

    Args:
        bundles: name → address.
        resolution: at which pictures are compared.
        put_back: measure the renders put back into their portraits, too.
        without: names of extractors that cannot be had.
    """

    KIND = "evaluate"

    def __init__(
        self,
        out: str,
        bundles: dict[str, str],
        sweep: Sweep,
        resolution: int,
        put_back: bool,
        without: frozenset[str],
    ):
        super().__init__(out)
        self.sweep, self.resolution, self.put_back = sweep, resolution, put_back
        read = {name: read_bundle(uri) for name, uri in bundles.items()}
        if not put_back:
            read = {name: replace(bundle, refinement=None) for name, bundle in read.items()}
        self.renderers = {name: Renderer(bundle, threads=1) for name, bundle in read.items()}
        self.measurer = Measurer(CropReader(), without)
        self.key = {**extractor_hashes(without), **_reader(), "resolution": resolution, "schema": str(SCHEMA)}

    def items(self, shard: int) -> list[tuple[str, Portrait]]:
        return read_chosen(self.out, shard)

    def run_shard(self, shard: int, chosen: list[tuple[str, Portrait]]) -> dict[str, Any]:
        real = cached([portrait for _, portrait in chosen], self.key, self._real)
        rows: list[dict[str, Any]] = []
        rejects: list[dict[str, str]] = []
        finish = partial(self._measure, real)
        for start in range(0, len(chosen), FACES):
            group = chosen[start : start + FACES]
            for found in tried_together(group, lambda item: item[1].source_uri, self._render, finish):
                if isinstance(found, dict):
                    rejects.append(found)
                else:
                    rows += found
        write_table(rejects_uri(self.out, shard), rejects, REJECT_SCHEMA)
        write_table(measured_uri(self.out, shard), rows, SCHEMA)
        return {"done": len(chosen) - len(rejects), "failed": len(rejects)}

    def _real(self, portrait: Portrait) -> dict[str, Any]:
        with bugs_as_rejections(portrait.source_uri):
            return self.measurer.real(portrait, fit(portrait.decoded(), self.resolution))

    def _render(self, chosen: Sequence[tuple[str, Portrait]]) -> list[Rendered]:
        faces = [fit(portrait.decoded(), self.resolution) for _, portrait in chosen]
        variants = self.sweep.variants()
        rendered = {name: renderer.render_both(faces, variants) for name, renderer in self.renderers.items()}
        return [
            (face, {name: (alone[i], finished[i]) for name, (alone, finished) in rendered.items()})
            for i, face in enumerate(faces)
        ]

    def _measure(
        self, real: dict[str, dict[str, Any]], chosen: tuple[str, Portrait], rendered: Rendered
    ) -> list[dict[str, Any]]:
        """Returns the rows of a portrait, its own and one or two for each bundle: all of them or none."""
        (medium, portrait), (face, pictures) = chosen, rendered
        # Not among them: it was rejected, which this tells.
        own = {**(real.get(portrait.id) or self._real(portrait)), "medium": medium}
        rows = [own]
        for name, (alone, finished) in pictures.items():
            rows.append(self.measurer.renders(name, face, _fitted(alone, self.resolution), own))
            if self.put_back:
                renderer = self.renderers[name]
                settled = AS_THE_BUNDLE_ASKS.settled(renderer.bundle.strength)
                wanted = [variant.of(face.attributes) for variant in self.sweep.variants()]
                own_size = fit(face, renderer.resolution)
                delivered = put_back(face.image, own_size, finished[0], finished, settled, wanted)
                rows.append(self.measurer.renders(f"{name}, {PUT_BACK}", face, delivered, own))
        return rows


def measured_uri(out: str, shard: int) -> str:
    """Names the measurements of one shard; their presence says that the shard is done."""
    return storage.join(out, MEASURED, f"part-{shard:05d}.parquet")


def rejects_uri(out: str, shard: int) -> str:
    """Names the portraits of one shard that could not be measured."""
    return storage.join(out, "rejects", f"part-{shard:05d}.parquet")


def evaluate(config: EvaluateConfig) -> EvaluateOutcome:
    """Scores bundles on the connected Ray cluster; resumes what an earlier run has left.

    Raises:
        CapriciousError: nothing to measure on, a bundle would be scored on its training images, the output folder
            belongs to other settings, too few CPUs, or no extractor can be had.
    """
    out = storage.absolute(config.out)
    workers = worker_count(config.workers, "evaluate")
    addresses = bundle_names(config.all_bundles)
    bundles = {name: read_bundle(uri) for name, uri in addresses.items()}
    resolution = config.resolution or max(bundle.info["resolution"] for bundle in bundles.values())
    datasets = list(_datasets(config, out, resolution))
    chosen = choose(datasets, config.portraits)
    allowed = config.allow_training_images
    seen = {name: training_images(bundle, name, chosen, allowed) for name, bundle in bundles.items()}
    missing = missing_extractors()
    asked = {
        "bundles": {name: bundle.sha256 for name, bundle in bundles.items()},
        "ages": list(config.sweep.ages),
        "resolution": resolution,
        "put_back": config.put_back,
        "datasets": [vars(dataset) for dataset in datasets],
        "portraits": hashlib.sha256(json.dumps([vars(entry) for entry in chosen]).encode()).hexdigest(),
        "extractors": {**extractor_hashes(missing), **_reader()},
    }
    plan = _make_plan(out, asked, chosen, shard_size(len(chosen), workers, config.shard_size))
    todo = sorted(set(range(plan.shards)) - part_numbers(storage.join(out, MEASURED)))
    arguments = {
        "out": out,
        "bundles": addresses,
        "sweep": config.sweep,
        "resolution": resolution,
        "put_back": config.put_back,
        "without": frozenset(missing),
    }
    run_shards(MeasureShard, arguments, plan, todo, workers, "evaluate")
    about = [BundleInfo(name, bundle.sha256, bundle.info, seen[name]) for name, bundle in bundles.items()]
    names = {uri: name for name, uri in addresses.items()}
    compared = [names[storage.absolute(uri).rstrip("/")] for uri in config.compare]
    return _finish(plan, about, missing, compared)


def _finish(plan: Plan, bundles: list[BundleInfo], missing: dict[str, str], compared: list[str]) -> EvaluateOutcome:
    """Makes the report of what was measured."""
    out = plan.out
    rejects = _read_all(out, rejects_uri, plan.shards)
    rows = _read_all(out, measured_uri, plan.shards)
    if not rows:
        raise CapriciousError(f"no portrait could be measured; the reasons are in {out}/rejects")
    report = evaluation(rows, plan.fields, bundles, missing, compared)
    storage.write_atomic(storage.join(out, REPORT_JSON), json.dumps(report, indent=2, ensure_ascii=False).encode())
    storage.write_atomic(storage.join(out, REPORT_HTML), report_page(report, rows).encode())
    reasons = Counter(f"{row['stage']}: {row['reason']}" for row in rejects)
    return EvaluateOutcome(plan.pictures, plan.pictures - len(rejects), dict(reasons.most_common()), report)


def _read_all(out: str, uri: Callable[[str, int], str], shards: int) -> list[dict[str, Any]]:
    tables = ahead(lambda shard: read_table(uri(out, shard)), range(shards))
    return [row for table in tables for row in table.to_pylist()]


def _datasets(config: EvaluateConfig, out: str, resolution: int) -> Iterator[Dataset]:
    """Yields what to measure on; collections that are no prepared datasets are prepared first."""
    for medium, uris in (("photograph", config.photographs), ("painting", config.paintings)):
        for number, uri in enumerate(uris):
            if storage.exists(storage.join(storage.absolute(uri), MANIFEST)):
                yield Dataset(storage.absolute(uri), None if config.split == "all" else config.split, medium)
                continue
            folder = storage.join(out, "prepared", f"{medium}s-{number}")
            annotator = replace(config.annotator, resolution=resolution)
            print(f"{uri} is not prepared yet: preparing it into {folder}")
            outcome = prepare(
                PrepareConfig(source=uri, out=folder, test_share=0.0, workers=config.workers, annotator=annotator)
            )
            if not outcome.portraits:
                reasons = ", ".join(f"{count} × {reason}" for reason, count in outcome.reasons.items())
                raise CapriciousError(f"{uri}: none of its {outcome.pictures} pictures shows a usable face ({reasons})")
            yield Dataset(folder, None, medium)


def _make_plan(out: str, asked: dict[str, Any], chosen: list[Chosen], size: int) -> Plan:
    """Writes the plan into a new folder, or returns the one that an old folder was started with."""
    if plan := begun(out, asked):
        return plan
    parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    for shard, part in enumerate(parts):
        write_chosen(out, shard, part)
    return begin(out, {**asked, "pictures": len(chosen), "shard_size": size, "shards": len(parts)})


def bundle_names(uris: Sequence[str]) -> dict[str, str]:
    """Names bundles by the shortest ends of their addresses that tell them apart; a last "bundle" is left out.

    Returns:
        Name → absolute address.
    """
    absolute = [storage.absolute(uri).rstrip("/") for uri in uris]
    parts = [uri.removesuffix("/bundle").split("/") for uri in absolute]
    depth = 1
    while len({"/".join(p[-depth:]) for p in parts}) < len(set(absolute)) and depth < max(map(len, parts)):
        depth += 1
    return {"/".join(p[-depth:]): uri for p, uri in zip(parts, absolute, strict=True)}


def _reader() -> dict[str, str]:
    """Names the parser that reads label maps from renders."""
    return {"parser": parser_sha256(AnnotatorConfig())}


def _fitted(pictures: np.ndarray, resolution: int) -> np.ndarray:
    """Brings V×S×S×3 pictures to the resolution at which they are compared."""
    if pictures.shape[1] == resolution:
        return pictures
    size = (resolution, resolution)
    resized = (Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS) for picture in pictures)
    return np.stack([np.asarray(picture) for picture in resized])
