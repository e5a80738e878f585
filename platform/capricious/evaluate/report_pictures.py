"""Sections of the report that show pictures: what was rejected, label maps, near-duplicates."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from PIL import Image

from capricious.data.collections import Source
from capricious.data.collections.parts import read_part
from capricious.data.duplicates import DuplicateGroup
from capricious.data.records import decode_label_map
from capricious.errors import CapriciousError
from capricious.evaluate import page
from capricious.evaluate.page import number
from capricious.evaluate.prepared_summary import Rejected, Summary
from capricious.evaluate.report_numbers import GLASSES_WORDS
from capricious.faces.attributes import GENDERS
from capricious.faces.image import decode
from capricious.faces.label_map import CLASSES, PALETTE, colorize
from capricious.faces.perceptual_hash import BITS, SAME_PICTURE

MAX_REASONS, MAX_GROUPS, MAX_COPIES = 12, 9, 4
"""So many reasons, groups of near-duplicates and members of a group are shown with pictures; all are counted."""

MAX_BYTES, MAX_PIXELS = 16 * 2**20, 40_000_000
"""A rejected picture above either limit is not opened for its thumbnail."""

SIDE = 160
"""Longest side of a thumbnail in pixels: twice what a page shows, for fine screens and paper."""

Place = tuple[int, int]
"""Shard and row of a portrait."""

log = logging.getLogger(__name__)


def rejects(out: str, summary: Summary) -> str:
    """Why pictures were rejected, with some of them."""
    groups = sorted(summary.rejected.values(), key=lambda group: (-group.count, group.stage, group.reason))
    counts = {f"{words(group.reason)} ({group.stage})": group.count for group in groups}
    return page.side_by_side([page.bars("Reasons", counts)]) + page.side_by_side(
        _rejected(out, group) for group in groups[:MAX_REASONS]
    )


def _rejected(out: str, group: Rejected) -> str:
    examples = group.examples.items()
    remark = number(group.count) if group.count <= len(examples) else f"{len(examples)} of {number(group.count)}"
    uri, detail, _ = examples[0]
    return page.block(
        page.heading(words(group.reason), remark)
        + page.exhibits(
            (
                page.exhibit(thumbnail(_source(out, uri, shard)), name_of(uri), f"{uri}: {detail}")
                for uri, detail, shard in examples
            ),
            "small",
        )
        + page.paragraph(f"{name_of(uri)}: {detail}", "note")
    )


def _source(out: str, uri: str, shard: int) -> Source:
    """Finds a rejected picture in the plan, which knows where in a tar or a table it lies."""
    return next(source for source in read_part(out, shard) if source.uri == uri)


def thumbnail(source: Source) -> str:
    """Returns a source picture as a thumbnail, or a neutral tile where it cannot be read or decoded."""
    uri = source.uri
    try:
        data = source.read(MAX_BYTES)
        # Tiny pictures are shown too: their size may be why they were rejected.
        pixels = decode(data, name=uri, max_pixels=MAX_PIXELS, min_side=1)
    except (OSError, CapriciousError) as error:
        log.info("no thumbnail of %s: %s", uri, error)
        return page.tile(name_of(uri))
    except Exception:  # a store's own errors (no credentials, say): no one picture is worth the report
        log.exception("no thumbnail of %s", uri)
        return page.tile(name_of(uri))
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return page.picture(np.asarray(image), f"Rejected picture {name_of(uri)}")


def sheet(summary: Summary, portraits: dict[Place, dict[str, Any]]) -> str:
    """Crops beside their label maps."""
    places = summary.sample.items()
    return (
        page.paragraph(
            f"{len(places)} portraits, chosen by chance, beside the label maps that a network will see. Eyes, brows, "
            "nose and mouth are boxes on purpose. Look for hair taken for background, and for boxes beside the face."
        )
        + page.legend(zip(CLASSES, PALETTE.tolist(), strict=True))
        + page.exhibits((_pair(portraits[place]) for place in places), "pairs")
    )


def _pair(row: dict[str, Any]) -> str:
    name = name_of(row["source_uri"])
    labels = Image.fromarray(colorize(decode_label_map(row["label_map"])))
    labels = labels.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    both = _crop(row) + page.picture(np.asarray(labels), f"Label map of the portrait from {name}", flat=True)
    known = row["attributes"]
    label = [name]
    label += [] if known["age"] is None else [f"{known['age']:.0f} years"]
    label += [] if known["gender"] is None else [GENDERS[int(known["gender"] > 0.5)]]
    label += [] if known["glasses"] in (None, "none") else [GLASSES_WORDS[known["glasses"]]]
    return page.exhibit(f'<div class="two">{both}</div>', " · ".join(label), row["source_uri"])


def duplicates(
    groups: list[DuplicateGroup],
    shown: list[DuplicateGroup],
    portraits: dict[Place, dict[str, Any]],
    threshold: int,
) -> str:
    """Near-duplicates within a threshold: how many, and `shown` of them."""
    limit = (
        f"Among so many portraits, only those were compared whose hashes differ in at most {threshold} of {BITS} bits; "
        f"copies that were changed more (up to {SAME_PICTURE} bits) are not found."
    )
    note = page.paragraph(limit, "note") if threshold < SAME_PICTURE else ""
    if not groups:
        return page.paragraph("No two portraits look like copies of one picture.") + note
    pairs = crossing_pairs(groups)
    verdict = (
        f"{number(pairs)} pair{'s lie' if pairs != 1 else ' lies'} across training and test: remove one side before "
        "trusting a measurement."
        if pairs
        else "No pair lies across training and test."
    )
    text = (
        f"{number(sum(len(group.ids) for group in groups))} portraits in {number(len(groups))} "
        f"group{'s' * (len(groups) != 1)} look like copies of one picture: filed twice, rescaled, retouched or "
        "cropped. "
    )
    return page.paragraph(text + verdict) + note + page.side_by_side(_group(group, portraits) for group in shown)


def _group(group: DuplicateGroup, portraits: dict[Place, dict[str, Any]]) -> str:
    members = list(zip(group.places, group.source_uris, group.splits, strict=True))
    remark = "across training and test" if group.crosses_splits else f"all in {group.splits[0]}"
    if len(members) > MAX_COPIES:
        remark += f", {number(len(members) - MAX_COPIES)} not shown"
    return page.block(
        page.heading(f"{number(len(members))} copies", remark)
        + page.exhibits(
            page.exhibit(_crop(portraits[place]), f"{name_of(uri)} · {split}", uri)
            for place, uri, split in members[:MAX_COPIES]
        )
    )


def crossing_pairs(groups: list[DuplicateGroup]) -> int:
    """Counts the pairs within groups of which one portrait is for training and one for testing."""
    return sum(group.splits.count("train") * group.splits.count("test") for group in groups)


def words(code: str) -> str:
    """Writes a code as words: "no-skin" as "no skin"."""
    return code.replace("-", " ")


def name_of(uri: str) -> str:
    """Returns the last part of an address."""
    return uri.rstrip("/").rsplit("/", 1)[-1] or uri


def _crop(row: dict[str, Any]) -> str:
    image = Image.fromarray(decode(row["image"], name=row["source_uri"]))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return page.picture(np.asarray(image), f"Portrait from {name_of(row['source_uri'])}")
