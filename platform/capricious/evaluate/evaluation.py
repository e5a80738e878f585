"""The whole evaluation as one mapping: what goes into report.json, and what the page is drawn from."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capricious import weights
from capricious.evaluate import scores
from capricious.evaluate.bootstrap import LEVEL, Interval
from capricious.evaluate.features import Features
from capricious.evaluate.identity import DLIB_DISTANCE, FALSE_ACCEPTS, threshold_at
from capricious.evaluate.measure import EXTRACTORS, PUT_BACK, REAL
from capricious.evaluate.scores import FIGURES, Protocol
from capricious.evaluate.subjects import (
    IDENTITY,
    MEDIA,
    Subject,
    by_subject,
    embeddings_of,
    identity_of,
    sitters_of,
    subject_of,
)
from capricious.model.learnt import Learnt

RECONSTRUCTION = "reconstruction only"
"""The baseline that answers every request with the render at the sitter's own age."""

FRECHET_GROUPS = ("all", *MEDIA)


@dataclass(frozen=True)
class BundleInfo:
    """What the report says of a bundle.

    Attributes:
        name: in the report.
        sha256: of the bundle.
        info: content of bundle.json.
        training_images: how many of the portraits it was trained on; None where it does not say.
    """

    name: str
    sha256: str
    info: Mapping[str, Any]
    training_images: int | None


def evaluation(
    rows: Sequence[dict[str, Any]],
    plan: Mapping[str, Any],
    bundles: Sequence[BundleInfo],
    missing: Mapping[str, str],
    compared: Sequence[str] = (),
) -> dict[str, Any]:
    """Makes the report of measured rows; fit for JSON, with null where nothing could be measured.

    Args:
        rows: of measure.SCHEMA, for each portrait that of "real" and one for each bundle, perhaps one put back.
        plan: "ages" and "resolution" at least; "datasets" and the hash of the "parser" among its "extractors".
        missing: extractors that could not be had, with the reason.
        compared: two bundles to test against each other.
    """
    protocol, subjects = subjects_of(rows, plan["ages"], [bundle.name for bundle in bundles])
    measured = {name: _subject(protocol, subject) for name, subject in subjects.items()}
    tests = scores.compare(protocol, *(subjects[name] for name in compared)) if compared else {}
    groups, perfect = protocol.sitters.groups(), scores.perfect(protocol)
    report = {
        "ages": list(plan["ages"]),
        "resolution": plan["resolution"],
        "sitters": {name: int(members.sum()) for name, members in groups.items()},
        "labelled_ages": int(protocol.sitters.labelled.sum()),
        "interval": LEVEL,
        "datasets": plan.get("datasets", []),
        "extractors": _extractors(missing, plan.get("extractors", {}).get("parser")),
        "missing": dict(missing),
        "threshold": {
            "cosine": protocol.threshold,
            "false_accepts": FALSE_ACCEPTS,
            "pairs": len(groups["all"]) * (len(groups["all"]) - 1) // 2,
            "dlib_distance": DLIB_DISTANCE,
        },
        "judge_on_real": {g: {n: vars(i) for n, i in f.items()} for g, f in scores.judge_on_real(protocol).items()},
        "perfect": {"slope": perfect.slope, "mae": perfect.mae, "readings": list(perfect.readings)},
        "real_curve": [{"age": age, **vars(interval)} for age, interval in scores.real_curve(protocol)],
        "bundles": {bundle.name: _bundle(bundle, plan["ages"]) for bundle in bundles},
        "subjects": measured,
        "compare": {
            "subjects": list(compared),
            "figures": {name: {**vars(test.difference), "p": test.p} for name, test in tests.items()},
        },
    }
    return _plain(report)


def subjects_of(
    rows: Sequence[dict[str, Any]], ages: Sequence[float], bundles: Sequence[str]
) -> tuple[Protocol, dict[str, Subject]]:
    """Returns what is measured against, and all subjects by name: the baselines, then the bundles."""
    sorted_rows = by_subject(rows)
    real = subject_of(sorted_rows[REAL])
    threshold, _ = threshold_at(embeddings_of(sorted_rows[REAL]))
    protocol = Protocol(np.array(ages, np.float64), sitters_of(sorted_rows[REAL]), real, threshold)
    pictures = len(ages) + 1
    subjects = {IDENTITY: identity_of(real, pictures)}
    of_bundles = {name: subject_of(sorted_rows[name]) for name in rendered_subjects(sorted_rows, bundles)}
    for name in bundles:
        label = f"{name}, {RECONSTRUCTION}"
        subjects[label] = of_bundles[name].repeated(label, pictures)
    return protocol, {**subjects, **of_bundles}


def rendered_subjects(known: Collection[str], bundles: Iterable[str]) -> list[str]:
    """Names the subjects whose pictures were measured, of those known: each bundle's renders, and the same put back."""
    return [subject for name in bundles for subject in (name, f"{name}, {PUT_BACK}") if subject in known]


def printed(report: Mapping[str, Any]) -> str:
    """Returns the figures of all sitters as text, one line for each figure."""
    names = list(report["subjects"])
    width = max(12, *(len(name) for name in names)) + 2
    lines = [" " * 24 + "".join(f"{name:>{width}}" for name in names)]
    for key, figure in FIGURES.items():
        cells = []
        for name in names:
            found = report["subjects"][name]["groups"]["all"].get(key)
            known = found is not None and found["value"] is not None
            cells.append(f"{found['value']:.{figure.digits}f}" if known else "–")
        lines.append(f"{figure.label:<24}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def _subject(protocol: Protocol, subject: Subject) -> dict[str, Any]:
    groups = {
        name: scores.figures(protocol, subject, members, frechet=name in FRECHET_GROUPS)
        for name, members in protocol.sitters.groups().items()
    }
    return {
        "groups": {group: {name: vars(i) for name, i in found.items()} for group, found in groups.items()},
        "age_curve": [vars(interval) for interval in scores.age_curve(protocol, subject)],
        "identity_curve": {
            name: {kind: vars(i) for kind, i in found.items()}
            for name, found in scores.identity_curve(protocol, subject).items()
        },
        "kid_by_decade": {name: vars(i) for name, i in scores.kid_by_decade(protocol, subject).items()},
    }


def _bundle(bundle: BundleInfo, ages: Sequence[float]) -> dict[str, Any]:
    learnt = Learnt.of_info(bundle.info)
    return {
        "sha256": bundle.sha256,
        "resolution": bundle.info.get("resolution"),
        "conditioning": bundle.info.get("architecture", {}).get("generator", {}).get("conditioning"),
        "images_seen": (bundle.info.get("training") or {}).get("images_seen"),
        "data_fingerprint": (bundle.info.get("data") or {}).get("fingerprint"),
        "code_version": bundle.info.get("code_version"),
        "training_images": bundle.training_images,
        "extrapolated_ages": [age for age in ages if learnt and learnt.extrapolates({"age": age})],
    }


def _extractors(missing: Mapping[str, str], parser_sha256: str | None) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"label maps": {"weight": "our own parser", "sha256": parser_sha256}}
    for name, needed in EXTRACTORS.items():
        if name not in missing:
            weight = weights.get(needed[0])
            found[name] = {"weight": weight.name, "sha256": weight.sha256, "licence": weight.weights_license}
    if "features" in found:
        found["features"]["resize"] = Features.resize
    return found


def _plain(value: Any) -> Any:
    """Makes values fit for JSON: what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Interval):
        return _plain(vars(value))
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
