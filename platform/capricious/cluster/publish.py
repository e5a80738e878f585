"""What a finished render leaves for people and other programs: gallery, checksums, report; from the ledger alone."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from capricious.cluster import ledger
from capricious.cluster.plan import Plan, read_plan
from capricious.data import storage
from capricious.data.ahead import behind
from capricious.data.titles import title_of
from capricious.render.deliverables import WHOLE
from capricious.render.exhibition import Exhibit
from capricious.render.gallery import GalleryWriter

REPORT = "report.json"
CHECKSUMS = "manifest-sha256.txt"
GALLERY = "gallery/index.html"


def unpublish(plan: Plan) -> None:
    """Declares that the ledger is about to change: what was published before is not all of it."""
    storage.remove(storage.join(plan.out, REPORT))


def published(plan: Plan) -> dict[str, Any] | None:
    """Returns the report of a ledger that has not changed since, or None."""
    uri = storage.join(plan.out, REPORT)
    return json.loads(storage.read(uri)) if storage.exists(uri) else None


def publish(plan: Plan) -> dict[str, Any]:
    """Writes gallery, manifest-sha256.txt (for `sha256sum -c`) and, last, report.json; returns the report.

    Reads the ledger once, a few shards at a time: memory does not grow with the collection.
    """
    storage.remove_partial(plan.out)
    with behind(lambda name, content: storage.write_atomic(storage.join(plan.out, name), content)) as write:
        report = _publish(plan, GalleryWriter(write))
    storage.write_atomic(storage.join(plan.out, REPORT), json.dumps(report, indent=2).encode())
    return report


def _publish(plan: Plan, gallery: GalleryWriter) -> dict[str, Any]:
    """Writes gallery and checksums; returns the report."""
    portraits: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    rows = size = 0
    with storage.atomic_writer(storage.join(plan.out, CHECKSUMS)) as checksums:
        for portrait in ledger.portraits(plan.out, plan.shards):
            first = portrait[0]
            portraits[first["status"]] += 1
            if first["status"] != "ok":
                reasons[f"{first['stage']}: {first['reason']}"] += 1
            gallery.add(first["status"], _entry(portrait))
            for row in portrait:
                rows += 1
                if row["status"] == "ok":
                    size += row["bytes"]
                    checksums.write(f"{row['sha256']}  {row['file']}\n".encode())
    gallery.close("Sweeps")
    return {
        "plan": plan.fingerprint,
        "bundle_sha256": plan.fields["bundle_sha256"],
        "code_version": plan.fields["code_version"],
        "portraits": plan.pictures,
        **{status: portraits[status] for status in ("ok", "failed", "skipped")},
        "rows": rows,
        "bytes": size,
        "rights": rights_note(plan),
        "reasons": dict(reasons.most_common()),
    }


def exhibits(out: str, below: str) -> list[Exhibit]:
    """Returns what a small run rendered, for an exhibition page that lies above its output, which is `below` it."""
    plan, hung = read_plan(out), []
    for rows in ledger.portraits(plan.out, plan.shards):
        if rows[0]["status"] == "ok":
            files = {row["product"]: f"{below}/{row['file']}" for row in rows}
            sitters = "one sitter" if rows[0]["faces"] == 1 else f"{rows[0]['faces']} sitters"
            title = title_of(rows[0]["uri"])
            hung.append(Exhibit(title, sitters, rows[0]["uri"], files["sheet"], files["animation"]))
    return hung


def rights_note(plan: Plan) -> str:
    """Says on whose word the pictures were rendered."""
    if plan.fields["rights"] == "any":
        return "rendered whatever their rights, as asked for"
    if plan.fields["rights_stated"] or plan.fields["rights_column"]:
        return "rendered only what the collection states to be CC0 or in the public domain"
    return "the collection states no rights: whoever started this answers for them"


def _entry(portrait: list[ledger.Row]) -> dict[str, Any]:
    """Returns what the gallery says of a portrait."""
    first = portrait[0]
    entry = {
        "folder": first["render_id"],
        "title": title_of(first["uri"]),
        "uri": first["uri"],
        "rights": first["rights"],
    }
    if first["status"] != "ok":
        return {**entry, "stage": first["stage"], "reason": first["reason"], "detail": first["detail"]}
    files = {row["product"]: row["file"] for row in portrait}
    guessed = [row["product"] for row in portrait if row.get("extrapolated") and row["product"] not in WHOLE]
    folder = first["file"].rpartition("/")[0]
    return {**entry, "folder": folder, "faces": first["faces"], "files": files, "extrapolated": guessed}
