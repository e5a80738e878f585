"""The report on bundles, for those who decide about them: one HTML file that stands alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from capricious.evaluate import evaluation_pictures, page
from capricious.evaluate.chart import Axis, Series, line_chart
from capricious.evaluate.evaluation import RECONSTRUCTION, rendered_subjects
from capricious.evaluate.measure import PUT_BACK
from capricious.evaluate.page import Cell, number
from capricious.evaluate.scores import FIGURES
from capricious.evaluate.subjects import IDENTITY

FEW = 100
"""Below so many portraits a report says how little it can tell."""

Found = Mapping[str, Any]

SUBGROUP_FIGURES = ("age/mae", "age/slope", "identity/cosine", "quality/kid", "mask/regions", "leakage/gender")


def report_page(report: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Returns the page.

    Args:
        report: from evaluation.evaluation().
        rows: what it was made from, for the pictures.
    """
    sections = [("overview", "In short", _overview(report)), ("figures", "All figures", _figures(report))]
    if report["compare"]["figures"]:
        sections.append(("compare", "Side by side", _compare(report)))
    if "faceres" not in report["missing"]:
        sections += [("age", "Does age obey?", _age(report)), ("identity", "The same sitter?", _identity(report))]
    if "features" not in report["missing"]:
        sections.append(("quality", "Quality by age", _quality(report)))
    sections += [
        ("sheets", "Best, median and worst", evaluation_pictures.sheets(report, rows)),
        ("masks", "Label maps", evaluation_pictures.masks(report, rows)),
        ("subgroups", "Subgroups", _subgroups(report)),
        ("provenance", "Provenance", _provenance(report)),
    ]
    names = ", ".join(report["bundles"])
    introduction = (
        f"{names} on {number(report['sitters']['all'])} portraits at {len(report['ages'])} requested ages each, "
        f"compared at {report['resolution']} × {report['resolution']} pixels. Figures are means over portraits; in "
        f"small print the {report['interval']:.0%} interval of a bootstrap over portraits (of KIDs: of a jackknife)."
    )
    return page.page("How well do they age?", introduction, sections)


def text_of(found: Found | None, key: str) -> str:
    """Writes the value of a figure, "–" where there is none."""
    if found is None or found["value"] is None:
        return "–"
    return _number(found["value"], FIGURES[key].digits)


def interval_of(found: Found | None, key: str) -> str:
    """Writes the interval of a figure; empty where there is none."""
    if found is None or found["low"] is None or found["high"] is None:
        return ""
    digits = FIGURES[key].digits
    return f"{_number(found['low'], digits)} … {_number(found['high'], digits)}"


def _number(value: float, digits: int) -> str:
    """Writes a number with a proper minus, and none before zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _cell(found: Found | None, key: str) -> Cell:
    return Cell(text_of(found, key), interval_of(found, key))


def _overview(report: Mapping[str, Any]) -> str:
    warnings = "".join(map(page.warning, _warnings(report)))
    return warnings + page.bullets(_findings(report))


def _warnings(report: Mapping[str, Any]) -> Iterator[str]:
    whole = report["sitters"]["all"]
    for name, bundle in report["bundles"].items():
        if bundle["training_images"] is None:
            yield (
                f"{name} does not say which pictures it was trained on, so nobody can tell whether it has seen these. "
                "Train it again with this version to know."
            )
        elif bundle["training_images"]:
            yield (
                f"{name} was trained on {number(bundle['training_images'])} of these {number(whole)} portraits, and is "
                "measured on them because somebody insisted. Its figures here say nothing about portraits it has "
                "not seen."
            )
    for name, reason in report["missing"].items():
        yield f"The extractor {name} could not be had; its figures are missing. {reason.splitlines()[0]}"
    threshold = report["threshold"]
    if threshold["cosine"] is not None and threshold["pairs"] < 10 / threshold["false_accepts"]:
        yield (
            f"{number(threshold['pairs'])} pairs of sitters are too few to find the cosine that only "
            f"{threshold['false_accepts']:.1%} of strangers exceed: the threshold of “same person” is a guess."
        )
    if whole < FEW:
        yield f"Only {whole} portraits: look at the intervals, not at the figures."


def _findings(report: Mapping[str, Any]) -> Iterator[str]:
    for name in rendered_subjects(report["subjects"], report["bundles"]):
        every = report["subjects"][name]["groups"]["all"]
        slope, mae = every.get("age/slope"), every.get("age/mae")
        if slope and slope["value"] is not None:
            yield (
                f"{name}: ten more requested years change the estimated age by {10 * slope['value']:.1f} years (age "
                f"slope {text_of(slope, 'age/slope')}); renders are {text_of(mae, 'age/mae')} years off the request "
                f"on average, where the input unchanged would be {_of_all(report, IDENTITY, 'age/mae')}."
            )
            yield (
                f"{name}: {_percent(every.get('identity/accepted'))} of the renders pass as the same person at a "
                f"threshold that lets {report['threshold']['false_accepts']:.1%} of strangers pass, "
                f"{_percent(every.get('identity/dlib'))} by dlib's measure."
            )
    for name, bundle in report["bundles"].items():
        if beyond := bundle["extrapolated_ages"]:
            ages = ", ".join(f"{age:g}" for age in beyond)
            yield f"{name} has learnt no such age as {ages}: there it extrapolates, and what it renders is marked so."
    real = report["judge_on_real"].get("all")
    if real:
        yield (
            f"The judge itself is {real['mae']['value']:.1f} years off on {number(real['mae']['n'])} of these "
            "portraits whose ages are known: of an age error of that order, much is its own."
        )
        if real["slope"]["value"] is not None:
            slope = text_of(real["slope"], "age/slope")
            yield f"The judge's own slope on real portraits is {slope}: perfect renders would show about that."
    perfect = report["perfect"]
    if perfect["slope"] is not None:
        yield (
            f"Real people of the requested ages, as far as they are among these portraits, would have the age slope "
            f"{perfect['slope']:.2f} and an age error of {perfect['mae']:.1f} years: so would perfect renders."
        )


def _of_all(report: Mapping[str, Any], subject: str, key: str) -> str:
    return text_of(report["subjects"][subject]["groups"]["all"].get(key), key)


def _percent(found: Found | None) -> str:
    return "–" if found is None or found["value"] is None else page.share(found["value"], 1.0)


def _figures(report: Mapping[str, Any]) -> str:
    subjects = report["subjects"]
    rows = []
    for key, figure in FIGURES.items():
        cells = [_cell(subject["groups"]["all"].get(key), key) for subject in subjects.values()]
        if any(cell.text != "–" for cell in cells):
            way = {1: " ↑", -1: " ↓", 0: ""}[figure.better]
            rows.append((figure.label + way, cells))
    explained = page.facts("What they mean", {figure.label: figure.meaning for figure in FIGURES.values()})
    return (
        page.paragraph(
            "↑ more is better, ↓ less is better. “Input unchanged” returns the original whatever is asked; "
            "“reconstruction only” answers every request with the render at the sitter's own age: both show what a "
            "figure is worth. “Put back” is what is delivered: the change of age, added to the portrait itself."
        )
        + page.table("All portraits", ["", *subjects], rows)
        + explained
    )


def _compare(report: Mapping[str, Any]) -> str:
    first, second = report["compare"]["subjects"]
    rows = []
    for key, test in report["compare"]["figures"].items():
        figure = FIGURES[key]
        better = figure.better * (test["value"] or 0.0)
        sure = test["p"] is not None and test["p"] < 0.05
        verdict = (
            ("better" if better > 0 else "worse") if sure and better else ("different" if sure else "not told apart")
        )
        cells = [
            *(_cell(report["subjects"][name]["groups"]["all"].get(key), key) for name in (first, second)),
            _cell(test, key),
            Cell("–" if test["p"] is None else "<\N{NO-BREAK SPACE}0.001" if test["p"] < 0.001 else f"{test['p']:.3f}"),
            Cell(verdict, shade={"better": 0.6, "worse": -0.6}.get(verdict, 0.0)),
        ]
        rows.append((figure.label, cells))
    return page.paragraph(
        f"{second} against {first}, portrait by portrait. p is that of a sign-flip permutation test, two-sided and not "
        f"corrected for the {len(rows)} rows: of so many, one in twenty falls below 0.05 by chance."
    ) + page.table("Second minus first", ["", first, second, "difference", "p", second], rows)


_COLOURS = (1, 2, 4, 5)
"""Series colours of the bundles; the third is that of real portraits."""
_REAL = 3


def _lines(report: Mapping[str, Any]) -> Iterator[tuple[str, int, Literal["solid", "heavy", "dashed"]]]:
    """Yields each subject with the colour and style of its line: a colour for each bundle, heavy what is delivered."""
    bundles = list(report["bundles"])
    for name in report["subjects"]:
        owner, _, what = name.rpartition(", ")
        if name in bundles:
            owner, what = name, ""
        colour = _COLOURS[bundles.index(owner) % len(_COLOURS)] if owner in bundles else 0
        yield (
            name,
            colour,
            "dashed" if not colour or what == RECONSTRUCTION else "heavy" if what == PUT_BACK else "solid",
        )


def _age(report: Mapping[str, Any]) -> str:
    series = [
        Series(
            name,
            [
                (age, found["value"], found["low"], found["high"])
                for age, found in zip(report["ages"], report["subjects"][name]["age_curve"], strict=True)
                if found["value"] is not None
            ],
            colour,
            style,
        )
        for name, colour, style in _lines(report)
    ]
    real = [(found["age"], found["value"], found["low"], found["high"]) for found in report["real_curve"]]
    if real:
        series.append(Series("real portraits of that age", real, _REAL))
    ticks = [(float(age), str(age)) for age in range(0, 101, 20)]
    low, high = min(0.0, *report["ages"]), max(90.0, *report["ages"])
    shown = [tick for tick in ticks if low <= tick[0] <= high]
    chart = line_chart(
        "Estimated over requested age",
        Axis("requested age, years", low, high, shown),
        Axis("estimated age, years", low, high, shown),
        series,
        ideal=True,
        note="Means over all portraits. Dotted: perfect obedience and a perfect judge. Real portraits show what this "
        "judge would see in perfect renders.",
    )
    rows = [
        (group, [Cell(number(found["mae"]["n"])), *(_cell(found[name], f"age/{name}") for name in _JUDGED)])
        for group, found in report["judge_on_real"].items()
    ]
    judge = page.table("The judge on real portraits with known ages", ["", "portraits", "error", "bias", "slope"], rows)
    return (
        page.paragraph(
            "Ages are read from the renders by faceres, a network that no training loss and no label of ours knows. "
            "It has errors of its own: they stand beside."
        )
        + chart
        + (judge if rows else page.paragraph("No portrait has a known age, so the judge cannot be judged.", "note"))
    )


_JUDGED = ("mae", "bias", "slope")


def _identity(report: Mapping[str, Any]) -> str:
    bins = list(next(iter(report["subjects"].values()))["identity_curve"])
    series = []
    for name, colour, style in _lines(report):
        curve = report["subjects"][name]["identity_curve"]
        points = [
            (i + 0.5, curve[b]["cosine"]["value"], curve[b]["cosine"]["low"], curve[b]["cosine"]["high"])
            for i, b in enumerate(bins)
            if curve[b]["cosine"]["value"] is not None
        ]
        series.append(Series(name, points, colour, style))
    threshold = report["threshold"]
    chart = line_chart(
        "Identity over change of age",
        Axis("|requested − own age|, years", 0, len(bins), [(i + 0.5, b) for i, b in enumerate(bins)]),
        Axis("cosine to the original", 0.0, 1.0, [(i / 5, f"{i / 5:g}") for i in range(6)]),
        series,
        note=f"Above {threshold['cosine'] or 0:.2f}, two pictures count as one person.",
    )
    rendered = rendered_subjects(report["subjects"], report["bundles"])
    rows = [
        (b, [Cell(_percent(report["subjects"][n]["identity_curve"][b][k])) for n in rendered for k in _KINDS])
        for b in bins
    ]
    groups = [("", 1), *((name, 2) for name in rendered)]
    heads = ["years", *(label for _ in rendered for label in ("faceres", "dlib"))]
    return (
        page.paragraph(
            "Two embeddings that were made to recognise people compare each render with its original. The threshold of "
            f"faceres is the cosine that {threshold['false_accepts']:.1%} of {number(threshold['pairs'])} pairs of "
            f"these sitters exceed; dlib's is a distance of {threshold['dlib_distance']}. People change with age, so "
            "does a true cosine."
        )
        + chart
        + page.table("Share that passes as the same person", heads, rows, groups)
    )


_KINDS = ("accepted", "dlib")


def _quality(report: Mapping[str, Any]) -> str:
    subjects = report["subjects"]
    decades = list(next(iter(subjects.values()))["kid_by_decade"])
    rows = [
        (decade, [_cell(subject["kid_by_decade"].get(decade), "quality/kid") for subject in subjects.values()])
        for decade in decades
    ]
    extractor = report["extractors"]["features"]
    return page.paragraph(
        "How far the renders at the ages of a decade are from real sitters of that decade: KID × 1000 on "
        f"{extractor['weight']} features (1280, {extractor['resize']}), unbiased, over all pairs of pictures that show "
        "different sitters. Not Inception, so not comparable with a published FID or KID. “–”: under 20 real sitters."
    ) + page.table("KID × 1000 by requested age", ["", *subjects], rows)


def _subgroups(report: Mapping[str, Any]) -> str:
    html = ""
    for name in rendered_subjects(report["subjects"], report["bundles"]):
        groups = report["subjects"][name]["groups"]
        rows = [
            (
                f"{group} ({number(report['sitters'][group])})",
                [_cell(found.get(key), key) for key in SUBGROUP_FIGURES],
            )
            for group, found in groups.items()
        ]
        html += page.table(name, ["sitters", *(FIGURES[key].label for key in SUBGROUP_FIGURES)], rows)
    return page.paragraph("By medium, gender and the sitter's own age, as far as these are known.") + html


def _provenance(report: Mapping[str, Any]) -> str:
    measured_on = {d["uri"]: f"{d['medium']}s, split {d['split'] or 'all'}" for d in report["datasets"]}
    html = page.facts("Measured on", measured_on)
    for name, bundle in report["bundles"].items():
        known = {key.replace("_", " "): _fact(value) for key, value in bundle.items()}
        known["training images among these"] = known.pop("training images")
        html += page.facts(name, known)
    for name, extractor in report["extractors"].items():
        html += page.facts(f"Extractor: {name}", {key: _fact(value) for key, value in extractor.items()})
    return html


def _fact(value: Any) -> str:
    if value is None:
        return "not recorded"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
