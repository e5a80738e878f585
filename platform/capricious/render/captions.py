"""What stands beside, above and below the pictures of a sweep on a contact sheet."""

from __future__ import annotations

from collections.abc import Set

from capricious.render.provenance import EXTRAPOLATED, NOTICE
from capricious.render.sweep import Sweep, Variant


def look_label(look: Variant) -> str:
    """Names a look for people: "female, glasses sun" for female_glasses-sun."""
    return look.name.replace("_", ", ").replace("-", " ")


def column_labels(sweep: Sweep, extrapolated: Set[str]) -> list[str]:
    """Names the columns: the original, then the ages, with a * where a variant at that age is `extrapolated`."""
    guessed = {variant.changes.get("age") for variant in sweep.variants() if variant.name in extrapolated}
    ages = [f"{age:g}{'*' * (age in guessed)}" for age in sweep.ages]
    return ["original", *(ages or ["own age"])]


def caption(extrapolated: Set[str]) -> str:
    """Says what the pictures are, and what a * means where there is one."""
    return f"{NOTICE}   * {EXTRAPOLATED}." if extrapolated else NOTICE
