"""The report on a prepared dataset, for the people who know the collection: one HTML file that stands alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from capricious.data import storage
from capricious.data.duplicates import DuplicateGroup, affordable_threshold, find_near_duplicates
from capricious.data.prepared import read_shard
from capricious.evaluate import page, report_numbers, report_pictures
from capricious.evaluate.page import number, share
from capricious.evaluate.prepared_summary import DECADE_NAMES, SPLITS, Summary, summarize
from capricious.evaluate.report_pictures import MAX_COPIES, MAX_GROUPS, Place, crossing_pairs, words

REPORT = "report.html"
"""Name of the report in the folder of the dataset."""


def write_report(out: str) -> None:
    """Writes `report.html` into a complete prepared dataset.

    Shards are read one after the other; all that grows with the dataset are 250 bytes a portrait while near-duplicates
    are sought. Of more than 1.4 million portraits only the nearest are found, and the report says so.

    Args:
        out: path or URL of the dataset.

    Raises:
        CapriciousError: the dataset is not complete or of another schema version.
    """
    summary = summarize(out)
    threshold = affordable_threshold(summary.portraits)
    groups = find_near_duplicates(out, threshold)
    # Copies that cross the splits first: they are the ones to act on.
    shown = sorted(groups, key=lambda group: not group.crosses_splits)[:MAX_GROUPS]
    places = [*summary.sample.items(), *(place for group in shown for place in group.places[:MAX_COPIES])]
    portraits = _read_portraits(out, places)
    sections = [("overview", "In short", _overview(summary, groups))]
    if summary.rejected:
        sections.append(("rejects", "Rejected pictures", report_pictures.rejects(out, summary)))
    if summary.portraits:
        sections += [
            ("label-maps", "Label maps", report_pictures.sheet(summary, portraits)),
            ("sitters", "The sitters", report_numbers.sitters(summary)),
            ("confounding", "What goes together", report_numbers.confounding(summary)),
            ("splits", "Training and test", report_numbers.splits(summary)),
            ("duplicates", "Near-duplicates", report_pictures.duplicates(groups, shown, portraits, threshold)),
            ("poses", "Poses and scores", report_numbers.measures(summary)),
        ]
    sections.append(("provenance", "Provenance", _provenance(summary)))
    html = page.page("Prepared portraits", _introduction(summary), sections)
    storage.write_atomic(storage.join(out, REPORT), html.encode())


def _read_portraits(out: str, places: Iterable[Place]) -> dict[Place, dict[str, Any]]:
    """Reads the pictures of some portraits, each shard once."""
    rows: dict[int, list[int]] = defaultdict(list)
    for shard, row in dict.fromkeys(places):
        rows[shard].append(row)
    portraits = {}
    for shard, wanted in sorted(rows.items()):
        table = read_shard(out, "portraits", shard, ["source_uri", "image", "label_map", "attributes"])
        for row, values in zip(wanted, table.take(wanted).to_pylist(), strict=True):
            portraits[shard, row] = values
    return portraits


def _introduction(summary: Summary) -> str:
    source = summary.manifest["plan"].get("source") or "the collection"
    side = summary.manifest["resolution"]
    return (
        f"What was found in {source}, and what to know before a network learns from it. Portraits are crops of "
        f"{side} × {side} pixels."
    )


def _overview(summary: Summary, groups: list[DuplicateGroup]) -> str:
    by_faces = summary.faces_per_picture()
    several = sum(pictures for faces, pictures in by_faces.items() if faces > 1)
    test = int(summary.sitters[..., SPLITS.index("test")].sum())
    crossing = sum(group.crosses_splits for group in groups)
    usable = summary.pictures - summary.rejects
    figures = [
        (number(summary.pictures), "pictures", f"{share(usable, summary.pictures)} with a usable face"),
        (number(summary.portraits), "portraits", f"{number(several)} pictures show more than one"),
        (number(summary.rejects), "rejected", f"{share(summary.rejects, summary.pictures)} of the pictures"),
        (number(test), "kept for testing", f"{share(test, summary.portraits)} of the portraits"),
        (number(len(groups)), "groups of near-duplicates", f"{number(crossing)} across training and test"),
    ]
    faces = {f"{n} portrait{'s' * (n != 1)}": by_faces[n] for n in range(5) if by_faces[n]}
    if many := sum(pictures for n, pictures in by_faces.items() if n >= 5):
        faces["5 or more"] = many
    return (
        page.tiles(figures)
        + page.bullets(_findings(summary, groups))
        + page.side_by_side([page.bars("Portraits found in a picture", faces)])
    )


def _findings(summary: Summary, groups: list[DuplicateGroup]) -> Iterator[str]:
    """What a reader should know if they read nothing else."""
    if summary.rejected:
        worst = max(summary.rejected.values(), key=lambda group: group.count)
        yield (
            f"{number(summary.rejects)} pictures were rejected, most often for this reason: {words(worst.reason)} "
            f"({number(worst.count)})."
        )
    if not summary.portraits:
        yield "No portrait came of this collection."
        return
    ages = summary.sitters.sum((1, 2, 3))[:-1]
    if ages.any():
        thin = [decade for decade, count in zip(DECADE_NAMES, ages, strict=True) if count < 0.02 * ages.sum()]
        text = (
            f"The most frequent age is {DECADE_NAMES[int(ages.argmax())]} "
            f"({share(ages.max(), ages.sum())} of the known). "
        )
        yield text + (
            f"Few or none are aged {', '.join(thin)}: under 2 % each." if thin else "All ages have 2 % or more."
        )
    yield report_numbers.strongest_confound(summary)
    if pairs := crossing_pairs(groups):
        yield (
            f"Near-duplicates: {number(pairs)} pair{'s lie' if pairs != 1 else ' lies'} across training and test, so "
            "that measurements on the test portraits look better than they are."
        )


def _provenance(summary: Summary) -> str:
    licences = {text or "not stated": count for text, count in summary.licenses.most_common()}
    settings = dict(_flat(summary.manifest["plan"]))
    annotator = {name: value for name, value in settings.items() if name.startswith("annotator.")}
    others = {name: value for name, value in settings.items() if name not in annotator}
    blocks = [page.bars("Licences, by portrait", licences)] if licences else []
    return (
        page.side_by_side([*blocks, _throughput(summary)])
        + page.facts("What was asked for", others)
        + page.facts("Annotator", {name.removeprefix("annotator."): value for name, value in annotator.items()})
    )


def _throughput(summary: Summary) -> str:
    """Time by stage. The stage "shard" is all of a worker's time; what no other stage claims is shown as the rest."""
    stages = {name: seconds for name, seconds in summary.seconds.items() if name != "shard"}
    whole = summary.seconds["shard"] or sum(stages.values())
    if not whole or not summary.pictures:
        return page.block(page.paragraph("How long it took was not recorded.", "note"))
    stages = dict(sorted(stages.items(), key=lambda item: -item[1]))
    if (rest := whole - sum(stages.values())) > 0.0:
        stages["the rest"] = rest
    rate = summary.pictures / whole
    note = (
        f"{1000 * whole / summary.pictures:.0f} milliseconds a picture: {rate:.3g} pictures a second for each worker. "
        f"The workers took {_duration(whole)} together."
    )
    milliseconds = {name: round(1000 * seconds / summary.pictures) for name, seconds in stages.items()}
    return page.bars("Milliseconds a picture, by stage", milliseconds, note=note)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields nested settings as "a.b" and text."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)
