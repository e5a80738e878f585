"""Render at any scale: a collection and a bundle in, the files of every portrait and a ledger of all of them out."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import capricious
from capricious.annotate.annotator import parser_sha256, settled
from capricious.cluster.ledger import LAYOUT, done_shards, failed_shards
from capricious.cluster.plan import exit_code, make_plan
from capricious.cluster.publish import publish, published, unpublish
from capricious.cluster.render_config import RenderConfig, excluded
from capricious.cluster.render_shard import RenderShard, read_bundle
from capricious.cluster.session import worker_count
from capricious.cluster.shards import run_shards
from capricious.data import storage
from capricious.data.annotations import fingerprint
from capricious.render.picture import FACES
from capricious.render.sweep import refuse_unlearnt


@dataclass(frozen=True)
class RenderOutcome:
    """What came of it, in portraits."""

    pictures: int
    rendered: int
    skipped: int
    reasons: dict[str, int]
    rights: str

    def exit_code(self, failure_share: float) -> int:
        """0 when all went well, 3 when some failed, 1 when too many or all did, or none was left to render."""
        tried = self.pictures - self.skipped
        return exit_code(tried, self.rendered, tried - self.rendered, failure_share) if tried else 1


def asked(config: RenderConfig) -> dict[str, Any]:
    """Everything besides the collection that determines what is rendered.

    Raises:
        CapriciousError: the sweep asks for an attribute that the bundle has never seen, or the prepared dataset is
            incomplete or of a lower resolution than the bundle's.
    """
    bundle = read_bundle(config.bundle)
    refuse_unlearnt(bundle.learnt, config.sweep.variants())
    return {
        "code_version": capricious.__version__,
        "layout": LAYOUT,
        "bundle_sha256": bundle.sha256,
        "sweep": asdict(config.sweep),
        "products": config.deliverables.products(config.sweep),
        "deliverables": asdict(config.deliverables),
        "composite": asdict(config.composite),
        "certificate_sha256": _sha256(config.credentials.certificate),
        "style_sha256": _sha256(config.style),
        "rights": config.rights,
        "exclude_sha256": hashlib.sha256("\n".join(sorted(excluded(config))).encode()).hexdigest(),
        "prepared_sha256": fingerprint(config.prepared, bundle.info["resolution"]) if config.prepared else None,
        "annotator": asdict(config.annotator),
        "parser_sha256": parser_sha256(config.annotator),
        "device": config.device,
    }


def _sha256(uri: str) -> str | None:
    return hashlib.sha256(storage.read(uri)).hexdigest() if uri else None


def located(config: RenderConfig) -> RenderConfig:
    """Returns the configuration as it means the same on every node: absolute paths, and what "auto" is here."""

    def absolute(uri: str) -> str:
        return storage.absolute(uri) if uri else ""

    return replace(
        config,
        annotator=settled(config.annotator),
        bundle=absolute(config.bundle),
        prepared=absolute(config.prepared),
        exclude=absolute(config.exclude),
        style=absolute(config.style),
        credentials=replace(
            config.credentials,
            certificate=absolute(config.credentials.certificate),
            private_key=absolute(config.credentials.private_key),
        ),
    )


def render(config: RenderConfig) -> RenderOutcome:
    """Renders a collection on the connected Ray cluster; resumes what an earlier run has left.

    Raises:
        CapriciousError: nothing to render, the output folder belongs to another plan, too few CPUs.
    """
    config = located(config)
    on_gpus = config.device == "cuda"
    workers = worker_count(config.workers, "render", gpus=on_gpus)
    plan = make_plan(config, asked(config), workers, together=FACES)
    done = set(done_shards(plan))
    retry = frozenset(failed_shards(plan)) & done if config.retry == "failed" else frozenset()
    todo = [shard for shard in range(plan.shards) if shard not in done or shard in retry]
    if todo:
        unpublish(plan)
    arguments = {"config": config, "plan": plan, "retry": retry}
    run_shards(RenderShard, arguments, plan, todo, workers, "render", gpus=int(on_gpus))
    report = published(plan) or publish(plan)
    return RenderOutcome(report["portraits"], report["ok"], report["skipped"], report["reasons"], report["rights"])
