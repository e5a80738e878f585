"""The figures of a subject: means over portraits with intervals, for all sitters and for subgroups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from capricious.evaluate.age import RealPeople, age_measures, estimator_error, r_squared, real_people
from capricious.evaluate.bootstrap import Interval, PairedTest, mean_interval, paired_test, statistic_interval
from capricious.evaluate.distance import kernel_distance, split_frechet_distance
from capricious.evaluate.identity import DLIB_DISTANCE, bin_names, change_bins
from capricious.evaluate.leakage import flips
from capricious.evaluate.subjects import Sitters, Subject, decade_name, decades

MIN_REAL = 3
"""Real sitters of a decade below which no mean of theirs is shown."""


@dataclass(frozen=True, eq=False)
class Protocol:
    """What all subjects are measured against.

    Attributes:
        ages: A requested ages, ascending, years.
        sitters: P sitters.
        real: the portraits themselves, one picture each.
        threshold: cosine above which two embeddings count as one person.
    """

    ages: np.ndarray
    sitters: Sitters
    real: Subject
    threshold: float

    def accepted(self, cosine: np.ndarray) -> np.ndarray:
        """Returns which cosines are those of one person, 1 or 0; nan where the cosine or the threshold is unknown."""
        return np.where(np.isnan(cosine - self.threshold), np.nan, cosine > self.threshold)


@dataclass(frozen=True)
class Figure:
    """What a figure is called, what it means, and which way is better: 1 more, −1 less, 0 neither."""

    label: str
    meaning: str
    better: int
    digits: int


FIGURES = {
    "age/mae": Figure("age error", "mean |estimated − requested age|, years", -1, 1),
    "age/bias": Figure("age bias", "mean of estimated − requested age, years", 0, 1),
    "age/slope": Figure("age slope", "estimated over requested age: 1 obeys, 0 ignores", 1, 2),
    "age/gap": Figure(
        "beside real people", "years between mean readings of renders and of real people, mean over the ages", -1, 1
    ),
    "age/r2": Figure("age R²", "share of the estimates' variance that the request explains", 1, 2),
    "age/spearman": Figure("age order", "rank correlation within a sweep (Spearman)", 1, 2),
    "age/monotone": Figure("rising steps", "share of steps to the next older age at which the estimate rises", 1, 2),
    "identity/cosine": Figure("identity", "cosine to the original (faceres)", 1, 3),
    "identity/accepted": Figure("same person", "share of renders above the threshold (faceres)", 1, 2),
    "identity/dlib": Figure(
        "same person, dlib", f"share of youngest and oldest renders with a distance below {DLIB_DISTANCE}", 1, 2
    ),
    "quality/kid": Figure("KID × 1000", "of renders at the own age to real pictures, × 1000", -1, 1),
    "quality/frechet": Figure(
        "Fréchet", "distance of renders at the own age to other sitters; “input unchanged” is what chance gives", -1, 1
    ),
    "reconstruction/psnr": Figure("PSNR", "of the render at the own age, dB", 1, 1),
    "reconstruction/ssim": Figure("SSIM", "of the render at the own age", 1, 3),
    "reconstruction/perceptual": Figure("perceptual", "VGG16 distance of the render at the own age", -1, 3),
    "mask/found": Figure("face found", "share of renders in which a face is found", 1, 2),
    "mask/regions": Figure(
        "regions IoU", "background, skin and hair against the given map, where a face is found", 1, 3
    ),
    "mask/parts": Figure("parts IoU", "boxes of eyes, brows, nose and mouth against it, where a face is found", 1, 3),
    "leakage/gender": Figure("gender flips", "share of a sweep's renders with another gender than the original", -1, 3),
    "leakage/label": Figure("gender against label", "share with another gender than the sitter's label says", -1, 3),
    "leakage/glasses": Figure("glasses flips", "share of a sweep's renders with glasses come or gone", -1, 3),
    "leakage/background": Figure("background", "mean change of the background in a sweep, levels of 255", -1, 2),
    "leakage/roughness": Figure("roughness", "largest step of a sweep over its mean step: 1 is even", -1, 2),
}


def per_portrait(protocol: Protocol, subject: Subject) -> dict[str, np.ndarray]:
    """Returns the figures that are means over portraits, P floats each; nan where a portrait has no value."""
    pictures = subject.pictures
    sweep = {name: values[:, 1:] for name, values in pictures.items()}
    ages = age_measures(protocol.ages, sweep["estimated_age"])
    sitters = protocol.sitters
    own_gender, own_glasses = (protocol.real.pictures[name][:, 0] for name in ("male", "glasses"))
    return {
        **{f"age/{name}": values for name, values in vars(ages).items()},
        "identity/cosine": sweep["cosine"].mean(1),
        "identity/accepted": _known_mean(protocol.accepted(sweep["cosine"])),
        "identity/dlib": _known_mean(_accepted_by_dlib(sweep["dlib_distance"])),
        **{f"reconstruction/{name}": subject.portraits[name] for name in ("psnr", "ssim", "perceptual")},
        "mask/found": (~np.isnan(pictures["region_iou"])).mean(1),
        "mask/regions": _known_mean(pictures["region_iou"]),
        "mask/parts": _known_mean(pictures["part_iou"]),
        "leakage/gender": flips(_yes(own_gender), _yes(sweep["male"])),
        # The judge errs about portraits, too (the baseline says how often): what it takes for a flip may be right.
        "leakage/label": flips(np.where(sitters.gender_labelled, _yes(sitters.gender), np.nan), _yes(sweep["male"])),
        "leakage/glasses": flips(own_glasses, sweep["glasses"]),
        "leakage/background": sweep["background_change"].mean(1),
        "leakage/roughness": subject.portraits["roughness"],
    }


def figures(protocol: Protocol, subject: Subject, members: np.ndarray, frechet: bool) -> dict[str, Interval]:
    """Returns all FIGURES of a subject on some of the portraits.

    Args:
        members: P bools.
        frechet: compute the Fréchet distance, too; it has no interval.
    """
    found = {name: mean_interval(values[members]) for name, values in per_portrait(protocol, subject).items()}
    estimated = subject.pictures["estimated_age"][members, 1:]
    if not np.isnan(estimated).any():
        found["age/r2"] = statistic_interval(lambda at: r_squared(protocol.ages, estimated[at]), len(estimated))
        found["age/gap"] = _beside_real_people(protocol, subject, members)
    if subject.features.shape[1]:
        own, originals = subject.features[members, 0], protocol.real.features[members, 0]
        at = np.arange(len(own))
        found["quality/kid"] = _thousandfold(kernel_distance(originals, at, own, at))
        if frechet:
            nan = float("nan")
            found["quality/frechet"] = Interval(split_frechet_distance(originals, own), nan, nan, len(own))
    return {name: found[name] for name in FIGURES if name in found}


def _beside_real_people(protocol: Protocol, subject: Subject, members: np.ndarray) -> Interval:
    """Returns by how many years renders are read otherwise than real people, those of all portraits with known ages.

    Each replicate draws both: what is known of real people of an age is less sure than the mean of the renders.
    """
    estimated = subject.pictures["estimated_age"][:, 1:]

    def gap(at: np.ndarray) -> float:
        of_members = at[members[at]]
        return perfect(protocol, at).gap(estimated[of_members]) if len(of_members) else float("nan")

    return statistic_interval(gap, len(members))


def kid_by_decade(protocol: Protocol, subject: Subject) -> dict[str, Interval]:
    """Returns the KID × 1000 of all renders of an age decade to real sitters of that decade (other portraits)."""
    if not subject.features.shape[1]:
        return {}
    real_decade, asked = protocol.sitters.decade(), decades(protocol.ages)
    portraits = np.arange(len(real_decade))
    found = {}
    for decade in sorted({int(d) for d in asked}):
        real = real_decade == decade
        fake = subject.features[:, 1:][:, asked == decade]
        owners = np.repeat(portraits, fake.shape[1])
        distance = kernel_distance(
            protocol.real.features[real, 0], portraits[real], fake.reshape(-1, fake.shape[-1]), owners
        )
        found[decade_name(decade)] = _thousandfold(distance)
    return found


def age_curve(protocol: Protocol, subject: Subject) -> list[Interval]:
    """Returns the mean estimated age of the renders at each requested age."""
    return [mean_interval(column) for column in subject.pictures["estimated_age"][:, 1:].T]


def identity_curve(protocol: Protocol, subject: Subject) -> dict[str, dict[str, Interval]]:
    """Returns "cosine", "accepted" and "dlib" by how far the age was moved (identity.CHANGES)."""
    bins = change_bins(protocol.ages, protocol.sitters.age)
    cosine, dlib = subject.pictures["cosine"][:, 1:], subject.pictures["dlib_distance"][:, 1:]
    values = {
        "cosine": cosine,
        "accepted": protocol.accepted(cosine),
        "dlib": _accepted_by_dlib(dlib),
    }
    return {
        name: {
            kind: mean_interval(_known_mean(np.where(bins == number, value, np.nan))) for kind, value in values.items()
        }
        for number, name in enumerate(bin_names())
    }


def judge_on_real(protocol: Protocol) -> dict[str, dict[str, Interval]]:
    """Returns the estimator's "mae", "bias" and "slope" on the real sitters whose ages are labels, by subgroup."""
    sitters = protocol.sitters
    estimated = protocol.real.pictures["estimated_age"][:, 0]
    found = {}
    for name, members in sitters.groups().items():
        known = members & sitters.labelled & ~np.isnan(estimated)
        if known.any():
            found[name] = estimator_error(sitters.age[known], estimated[known])
    return found


def perfect(protocol: Protocol, at: np.ndarray | None = None) -> RealPeople:
    """Returns what the judge reads of real people of the requested ages; of all sitters whose ages are labels.

    Args:
        at: indices of the sitters to take, some of them several times; None takes each once.
    """
    sitters, estimated = protocol.sitters, protocol.real.pictures["estimated_age"][:, 0]
    known = sitters.labelled & ~np.isnan(estimated)
    chosen = np.flatnonzero(known) if at is None else at[known[at]]
    return real_people(protocol.ages, sitters.age[chosen], estimated[chosen])


def real_curve(protocol: Protocol) -> list[tuple[float, Interval]]:
    """Returns mean true age and mean estimated age of the real sitters of known age, by decade."""
    sitters, estimated = protocol.sitters, protocol.real.pictures["estimated_age"][:, 0]
    found = []
    for decade in range(11):
        known = sitters.labelled & (sitters.decade() == decade) & ~np.isnan(estimated)
        if known.sum() >= MIN_REAL:
            found.append((float(sitters.age[known].mean()), mean_interval(estimated[known])))
    return found


def compare(protocol: Protocol, first: Subject, second: Subject) -> dict[str, PairedTest]:
    """Compares two subjects portrait by portrait: second minus first."""
    one, other = per_portrait(protocol, first), per_portrait(protocol, second)
    tests = {name: paired_test(one[name], other[name]) for name in FIGURES if name in one}
    return {name: test for name, test in tests.items() if test.difference.n}


def chosen(protocol: Protocol, subject: Subject) -> Iterator[tuple[str, int]]:
    """Yields the portraits to show of a subject: best, median and worst by age error and by identity."""
    values = per_portrait(protocol, subject)
    for name, sign in (("age/mae", 1), ("identity/cosine", -1)):
        order = np.argsort(sign * values[name], kind="stable")
        order = order[~np.isnan(values[name][order])]
        if len(order):
            for rank, at in (("best", 0), ("median", len(order) // 2), ("worst", len(order) - 1)):
                yield f"{rank} by {FIGURES[name].label}: {values[name][order[at]]:.3g}", int(order[at])


def _accepted_by_dlib(distance: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(distance), np.nan, distance < DLIB_DISTANCE)


def _known_mean(values: np.ndarray) -> np.ndarray:
    """Means of rows without their nans; nan for a row that has nothing else."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(1), known.sum(1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _yes(probability: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(probability), np.nan, probability > 0.5)


def _thousandfold(distance: Interval) -> Interval:
    return Interval(1000 * distance.value, 1000 * distance.low, 1000 * distance.high, distance.n)
