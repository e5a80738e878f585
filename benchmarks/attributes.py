"""Age and gender against labels, before and after calibration, and what one face costs.

    python benchmarks/attributes.py --labelled UTKFACE AAF [--paintings PAINTINGS] [--cache FOLDER]

The shipped calibration is measured on the pictures that were held out when it was fitted (by their content's hash), a
fresh one is fitted on each collection alone to see how it transfers. Paintings are never fitted on. Prints Markdown.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import skimage.data

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.annotate.age_calibration import AgeCalibration, decade_of
from capricious.annotate.attributes import AgeAndGender
from capricious.annotate.calibrate import Observations, fit_on, mean_error, observe
from capricious.annotate.expression import Expression
from capricious.annotate.finder import FaceFinder
from capricious.faces.attributes import EMOTIONS


def table(columns: list[str], rows: list[list[object]]) -> None:
    print("|", " | ".join(columns), "|\n|" + "---|" * len(columns))
    for row in rows:
        print("|", " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row), "|")
    print()


def errors(calibration: AgeCalibration, faces: Observations) -> tuple[np.ndarray, np.ndarray]:
    """Returns estimate minus label in years, before and after."""
    after = calibration(faces.estimated, faces.male_probability)
    return faces.estimated - faces.age, after - faces.age


def overall(calibration: AgeCalibration, faces: Observations) -> list[object]:
    """Mean absolute error as collected and with decades counting alike, and bias; before → after."""
    both, drawn = errors(calibration, faces), faces.drawn
    return [
        int(drawn.sum()),
        " → ".join(f"{mean_error(error[drawn], faces.age[drawn]):.2f}" for error in both),
        " → ".join(f"{mean_error(error, faces.age, by_decade=True):.2f}" for error in both),
        " → ".join(f"{error[drawn].mean():+.1f}" for error in both),
    ]


def by_decade(calibration: AgeCalibration, faces: Observations) -> list[list[object]]:
    both = errors(calibration, faces)
    right = (faces.male_probability > 0.5) == (faces.male > 0.5)
    rows: list[list[object]] = []
    for decade in range(10):
        cells: list[object] = []
        for male in (0, 1):
            chosen = (decade_of(faces.age) == decade) & (faces.male == male)
            if chosen.sum() < 5:
                cells += [int(chosen.sum()), "", "", ""]
                continue
            mae = " → ".join(f"{np.abs(error[chosen]).mean():.1f}" for error in both)
            bias = " → ".join(f"{error[chosen].mean():+.0f}" for error in both)
            cells += [int(chosen.sum()), mae, bias, f"{right[chosen].mean():.0%}"]
        rows.append([f"{decade}0s" if decade < 9 else "90+", *cells])
    return rows


def milliseconds(rounds: int) -> dict[str, float]:
    """Medians of interleaved calls with one thread, on a 512×512 photograph."""
    image = skimage.data.astronaut()
    points = FaceFinder().find(image)[0][0].points
    age_and_gender, expression = AgeAndGender(), Expression()
    calls = {
        "age and gender": lambda: age_and_gender.estimate(image, points),
        "expression": lambda: expression.estimate(image, points),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--labelled", nargs="+", required=True)
    arguments.add_argument("--paintings")
    arguments.add_argument("--pictures", type=int, default=3500)
    arguments.add_argument("--cache", default="")
    given = arguments.parse_args()

    observed = {Path(uri).name: observe(uri, given.pictures, given.cache) for uri in given.labelled}
    paintings = observe(given.paintings, given.pictures, given.cache) if given.paintings else None
    shipped = AgeCalibration.load()

    print("## Age, held-out faces: mean absolute error in years, before → after\n")
    tests = {name: faces[faces.held_out] for name, faces in observed.items()}
    if paintings is not None:
        tests["paintings (age at sitting)"] = paintings
    rows = [[name, *overall(shipped, faces)] for name, faces in tests.items()]
    table(["collection", "faces", "MAE as collected", "MAE, decades alike", "bias"], rows)

    print("## How it transfers: fitted on one collection, measured on the other's held-out faces\n")
    rows = []
    for name, faces in observed.items():
        alone = fit_on([faces])
        rows += [[name, other, *overall(alone, test)] for other, test in tests.items()]
    table(["fitted on", "measured on", "faces", "MAE as collected", "MAE, decades alike", "bias"], rows)

    columns = ["n", "MAE", "bias", "gender right"]
    for name in observed:
        print(f"## {name} by decade (women, then men)\n")
        table(
            ["age", *(f"{who}: {column}" for who in ("women", "men") for column in columns)],
            by_decade(shipped, tests[name]),
        )

    print("## Gender right, held-out faces as collected\n")
    rows = []
    for name in observed:
        test = tests[name][tests[name].drawn]
        right = (test.male_probability > 0.5) == (test.male > 0.5)
        child = test.age < 15
        rows.append([name, f"{right.mean():.1%}", f"{right[child].mean():.1%}", f"{right[~child].mean():.1%}"])
    table(["collection", "all", "under 15", "15 and older"], rows)

    print("## Expression: share of faces whose likeliest emotion it is (no ground truth)\n")
    rows = []
    everything = {**observed, **({"paintings": paintings} if paintings is not None else {})}
    for name, faces in everything.items():
        drawn = faces.emotion[faces.drawn]
        counts = np.bincount(drawn.argmax(1), minlength=len(EMOTIONS)) / len(drawn)
        rows.append([name, *(f"{share:.1%}" for share in counts)])
    table(["collection", *EMOTIONS], rows)

    print("## Milliseconds a face, one thread\n")
    table(["network", "ms"], [[name, value] for name, value in milliseconds(rounds=100).items()])


if __name__ == "__main__":
    main()
