"""Sections of the report on bundles that show pictures: sweeps from best to worst, label maps given and found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from capricious.data.records import decode_label_map
from capricious.evaluate import page, scores
from capricious.evaluate.evaluation import rendered_subjects, subjects_of
from capricious.evaluate.measure import REAL
from capricious.evaluate.report_pictures import name_of
from capricious.evaluate.subjects import by_subject
from capricious.faces.image import decode
from capricious.faces.label_map import CLASSES, PALETTE, colorize

SIDE = 96
"""Pictures of a smaller side are enlarged to it, pixel by pixel where they are label maps."""

MASK_EXAMPLES = 4


def sheets(report: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Whole sweeps of each bundle: best, median and worst by age error and by identity."""
    protocol, subjects = subjects_of(rows, report["ages"], list(report["bundles"]))
    of_subject = by_subject(rows)
    labels = ["original", "own age", *(f"{age:g}" for age in report["ages"])]
    html = page.paragraph(
        "Chosen by figures, not by eye. The number after the colon is the portrait's age error in years, or its cosine."
    )
    for name in rendered_subjects(subjects, report["bundles"]):
        html += page.heading(name)
        for title, at in scores.chosen(protocol, subjects[name]):
            real, row = of_subject[REAL][at], of_subject[name][at]
            pictures = [real["pictures"][0], *row["pictures"]]
            shown = [_picture(data, f"{name}, {label}") for data, label in zip(pictures, labels, strict=True)]
            html += page.strip(shown, labels, f"{title} · {_sitter(real)}")
    return html


def masks(report: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The map that was given, beside those that are read from the original and from renders."""
    of_subject = by_subject(rows)
    real = of_subject[REAL]
    chosen = [i * len(real) // min(MASK_EXAMPLES, len(real)) for i in range(min(MASK_EXAMPLES, len(real)))]
    ages = report["ages"]
    html = page.paragraph(
        "A render should keep to the label map that it was given. The map is read from it as prepare would read it; "
        "what is read from the original itself is the ceiling. A grey tile: no face found."
    ) + page.legend(zip(CLASSES, PALETTE.tolist(), strict=True))
    for name in report["bundles"]:
        html += page.heading(name)
        for at in chosen:
            row = of_subject[name][at]
            shown = [
                _picture(real[at]["pictures"][0], "original"),
                _map(real[at]["given_map"], "given map"),
                _map(real[at]["maps"][0], "map read from the original"),
            ]
            labels = ["original", "given map", "read from it"]
            for number, label in ((0, "own age"), (1, f"{ages[0]:g}"), (len(ages), f"{ages[-1]:g}")):
                shown += [_picture(row["pictures"][number], label), _map(row["maps"][number], f"map at {label}")]
                labels += [label, "read from it"]
            html += page.strip(shown, labels, _sitter(real[at]))
    return html


def _sitter(row: Mapping[str, Any]) -> str:
    age = "age unknown" if row["age"] is None else f"{row['age']:.0f} years"
    return f"{name_of(row['source_uri'])} · {age}"


def _picture(data: bytes, alt: str) -> str:
    image = decode(data, name=alt)
    if image.shape[0] < SIDE:
        image = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return page.picture(image, alt)


def _map(data: bytes | None, alt: str) -> str:
    if data is None:
        return page.picture(np.full((SIDE, SIDE, 3), 128, np.uint8), f"{alt}: no face found", flat=True)
    labels = colorize(decode_label_map(data))
    if labels.shape[0] < SIDE:
        labels = np.asarray(Image.fromarray(labels).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return page.picture(labels, alt, flat=True)
