"""Sections of the report that show numbers: the sitters, what goes together, the splits, poses and scores."""

from __future__ import annotations

import numpy as np

from capricious.evaluate import page
from capricious.evaluate.confounding import WEAK, Confound, adjusted_residuals, confounds
from capricious.evaluate.page import number, share
from capricious.evaluate.prepared_summary import DECADE_NAMES, MEASURES, SMILES, SPLITS, Summary
from capricious.faces.attributes import EMOTIONS, GENDERS, GLASSES

GLASSES_WORDS = {"none": "no glasses", "reading": "glasses", "sun": "sunglasses"}
FEW = 10
"""Of fewer portraits no shares are given."""

CHANCE, CERTAIN = 2.0, 8.0
"""Adjusted residuals up to which a cell is left blank (chance does this), and from which it has the full colour."""


def sitters(summary: Summary) -> str:
    """Histograms of the attributes, with how much is known and from where."""
    ages, genders, glasses = (summary.sitters.sum(others)[:-1] for others in ((1, 2, 3), (0, 2, 3), (0, 1, 3)))
    blocks = [
        _attribute(summary, "age", DECADE_NAMES, ages),
        _attribute(summary, "gender", GENDERS, genders),
        _attribute(summary, "glasses", tuple(GLASSES_WORDS.values()), glasses),
        _attribute(summary, "smile", SMILES, summary.smiles),
        _attribute(summary, "emotion", EMOTIONS, summary.emotions),
    ]
    return page.paragraph(
        "Labels come with the collection; estimates are a network's guess from the picture. Of the emotions, the most "
        "probable one of a portrait counts."
    ) + page.side_by_side(blocks)


def _attribute(summary: Summary, name: str, values: tuple[str, ...], counts: np.ndarray) -> str:
    sources = summary.sources[name]
    known = summary.portraits - sources[None]
    if not known:
        return f"<div>{page.heading(name.capitalize())}{page.paragraph('Not known of any portrait.', 'note')}</div>"
    note = (
        f"Known of {share(known, summary.portraits)} of the portraits: "
        f"{number(sources['label'])} labels, {number(sources['estimated'])} estimates."
    )
    return page.bars(name.capitalize(), dict(zip(values, counts.tolist(), strict=True)), known, note)


def confounding(summary: Summary) -> str:
    """Age × gender × glasses as a table of shares, and what goes together in sentences."""
    known = _known(summary)
    if not known.any():
        return page.paragraph("Age, gender and glasses are not known together of any sitter.")
    cells = known.reshape(len(DECADE_NAMES), -1)
    surprise = adjusted_residuals(cells)
    rows = [
        (decade, [*_shares(line, residuals), page.Cell(number(int(line.sum())))])
        for decade, line, residuals in zip(DECADE_NAMES, cells, surprise, strict=True)
        if line.any()
    ]
    everyone = cells.sum(0)
    rows.append(("all", [*_shares(everyone, np.zeros(len(everyone))), page.Cell(number(int(everyone.sum())))]))
    heads = ["Age", *("none", "glasses", "sun") * len(GENDERS), "all"]
    groups = [("", 1), *((gender, len(GLASSES)) for gender in GENDERS), ("", 1)]
    unknown = summary.portraits - int(known.sum())
    left_out = f" Of {number(unknown)} more, age, gender or glasses is not known." if unknown else ""
    return (
        page.paragraph(
            "If the old are mostly men, a network told to make a sitter older may make them more male. Each row adds "
            "up to 100 % and would read like the last one if nothing went together."
        )
        + page.table("Sitters of each age by gender and glasses: share of the row, and portraits", heads, rows, groups)
        + page.scale("fewer than if nothing went together", "more")
        + page.paragraph(f"Rows of fewer than {FEW} portraits show counts only.{left_out}", "note")
        + page.bullets(_sentence(found) for found in confounds(known))
    )


def _shares(counts: np.ndarray, residuals: np.ndarray) -> list[page.Cell]:
    total = int(counts.sum())
    if total < FEW:
        return [page.Cell(number(count)) for count in counts.tolist()]
    return [
        page.Cell(share(count, total), number(count), _shade(residual))
        for count, residual in zip(counts.tolist(), residuals.tolist(), strict=True)
    ]


def _shade(residual: float) -> float:
    """Turns an adjusted residual into a colour, −1 … 1; what chance does anyway stays 0."""
    size = (abs(residual) - CHANCE) / (CERTAIN - CHANCE)
    return float(np.sign(residual) * np.clip(size, 0.0, 1.0)) if size > 0 else 0.0


def strongest_confound(summary: Summary) -> str:
    """Says in one sentence which two of age, gender and glasses go together most."""
    found = confounds(_known(summary))
    if not found:
        return "Age, gender and glasses are not known of enough sitters to see what goes together."
    lead = (
        "The strongest confound: " if found[0].strength >= WEAK else "Age, gender and glasses are nearly independent: "
    )
    sentence = _sentence(found[0])
    return lead + sentence[0].lower() + sentence[1:]


def _known(summary: Summary) -> np.ndarray:
    """Sitters by age decade, gender and glasses, where all three are known."""
    return summary.sitters.sum(-1)[:-1, :-1, :-1]


def _sentence(found: Confound) -> str:
    first, second = (("age", "gender", "glasses")[axis] for axis in found.axes)
    of = f"those aged {DECADE_NAMES[found.group]}" if first == "age" else f"the {GENDERS[found.group]} sitters"
    what = f"are {GENDERS[found.outcome]}" if second == "gender" else f"wear {GLASSES_WORDS[GLASSES[found.outcome]]}"
    return (
        f"{first.capitalize()} and {second} have a Cramér's V of {found.strength:.2f} (0: independent, 1: one tells "
        f"the other). Of {of}, {share(found.share, 1)} {what}; of all sitters, {share(found.expected, 1)}."
    )


def splits(summary: Summary) -> str:
    """How the groups of age and gender are dealt to training and test."""
    cells = summary.sitters.sum(2)  # decade, gender, split
    decades, genders = (*DECADE_NAMES, "unknown"), (*GENDERS, "gender unknown")
    surprise = adjusted_residuals(cells.reshape(-1, len(SPLITS)))[:, SPLITS.index("test")].reshape(cells.shape[:2])
    columns = np.flatnonzero(cells.any((0, 2)))
    rows = [
        (decades[row], [_dealt(cells[row, column], surprise[row, column]) for column in columns])
        for row in np.flatnonzero(cells.any((1, 2)))
    ]
    untested = [
        f"{GENDERS[gender]} {DECADE_NAMES[decade]}"
        for decade, gender in np.argwhere((cells[:-1, :-1, 0] > 0) & (cells[:-1, :-1, 1] == 0))
    ]
    train, test = cells.sum((0, 1)).tolist()
    rest = f"There are none of: {', '.join(untested)}." if untested else "Every known group of age and gender has some."
    return (
        page.paragraph(
            "Pictures are dealt to training and test by their content, so that the same file is never on both sides. "
            f"Of all portraits {share(test, train + test)} are for testing. {rest}"
        )
        + page.table(
            "Portraits for training + for testing, and the share for testing",
            ["Age", *(genders[column] for column in columns)],
            rows,
        )
        + page.scale("fewer for testing than chance explains", "more")
    )


def _dealt(counts: np.ndarray, residual: float) -> page.Cell:
    train, test = counts.tolist()
    if not train + test:
        return page.Cell("–")
    remark = share(test, train + test) if train + test >= FEW else ""
    return page.Cell(f"{number(train)} + {number(test)}", remark, _shade(residual))


def measures(summary: Summary) -> str:
    """Histograms of poses and scores."""
    return page.paragraph(
        "What lies beyond a scale is counted at its end. Angles are positive where the sitter looks to the picture's "
        "right, looks up, or tilts the head clockwise."
    ) + page.side_by_side(
        page.columns(
            measure.title, summary.measures[name], measure.low, measure.high, measure.unit, _middle(summary, name)
        )
        for name, measure in MEASURES.items()
    )


def _middle(summary: Summary, name: str) -> str:
    """Between which values the middle nine tenths of a measure lie, as far as its bins tell."""
    counts, measure = summary.measures[name], MEASURES[name]
    if not counts.any():
        return "no values"
    reached = np.cumsum(counts) / counts.sum()
    edges = np.linspace(measure.low, measure.high, measure.bins + 1)
    low, high = edges[np.searchsorted(reached, 0.05)], edges[np.searchsorted(reached, 0.95) + 1]
    return f"nine in ten from {low:.3g}{measure.unit} to {high:.3g}{measure.unit}".replace("-", "−")
