"""How the shape of a face changes with age: mean landmarks of labelled, frontal training portraits, by age and gender.

    python examples/mean_shapes.py PREPARED platform/capricious/render/mean_shapes.json

Makes what render/shape_change.py reads. Each mean is one over all portraits of a gender, weighted by a bell of 4 years
around the age, and over their mirror images.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from capricious.data.prepared import PreparedDataset
from capricious.faces.align import to_crop

AGES = range(4, 89, 4)
BELL_YEARS = 4.0
FRONTAL_DEGREES = 20.0
MIRRORED = [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1)]
MIRRORED += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
MIRRORED += [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)]
"""Of each of the 68 landmarks the one that lies opposite."""


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("prepared")
    arguments.add_argument("out", type=Path)
    options = arguments.parse_args()
    dataset = PreparedDataset(options.prepared, "train")
    portraits = [dataset.portrait(i) for i in range(len(dataset))]
    chosen = [
        each
        for each in portraits
        if each.attribute_source["age"] == each.attribute_source["gender"] == "label"
        and (np.abs(each.pose[:2]) < FRONTAL_DEGREES).all()
    ]
    shapes = np.stack([to_crop(each.landmarks, each.quad, 1) for each in chosen])
    ages = np.array([each.attributes.age for each in chosen])
    male = np.array([each.attributes.gender for each in chosen]) >= 0.5
    weights = np.exp(-0.5 * ((np.array(AGES)[:, None] - ages) / BELL_YEARS) ** 2)
    found = {"portraits": len(chosen), "ages": list(AGES)}
    for gender, those in (("female", ~male), ("male", male)):
        means = np.einsum("an,npc->apc", weights[:, those], shapes[those]) / weights[:, those].sum(1)[:, None, None]
        means = (means + (means * [-1, 1] + [1, 0])[:, MIRRORED]) / 2
        found[gender] = means.round(5).tolist()
    options.out.write_text(json.dumps(found) + "\n")
    print(f"{len(chosen)} portraits")


if __name__ == "__main__":
    main()
