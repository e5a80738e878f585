"""How well the student says what the teacher says, on targets that it never saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np

from capricious.annotate.attributes import wears_glasses
from capricious.annotate.distill.targets import Target
from capricious.annotate.parsing import Parsing
from capricious.faces.label_map import BACKGROUND, HAIR, SKIN

CLASSES = {"background": BACKGROUND, "skin": SKIN, "hair": HAIR}


@dataclass(frozen=True)
class Agreement:
    """Agreement with the teacher's own answers (its most likely class at each pixel).

    Attributes:
        crops: how many were compared.
        background, skin, hair: intersection over union, pixels of all crops together that show the picture:
            beyond its border the crop is a blurred mirror, of which neither parser can know anything.
        whole_background, whole_skin, whole_hair: the same over all pixels of the crops.
        glasses_precision, glasses_recall, glasses_f1: of "the sitter wears glasses"; 0 where there is none to find.
        glasses_worn: how many sitters wear glasses, says the teacher.
    """

    crops: int
    background: float
    skin: float
    hair: float
    whole_background: float
    whole_skin: float
    whole_hair: float
    glasses_precision: float
    glasses_recall: float
    glasses_f1: float
    glasses_worn: int


def teachers_parsing(soft_labels: np.ndarray) -> Parsing:
    """Returns the teacher's answer for S×S×3 uint8 soft labels."""
    skin, hair, glasses = (soft_labels[..., i].astype(int) for i in range(3))
    labels = np.stack([255 - skin - hair, skin, hair]).argmax(0).astype(np.uint8)
    return Parsing(labels, glasses > 127)


def measure(targets: Iterable[Target], parse: Callable[[np.ndarray], Parsing]) -> Agreement:
    """Compares a parser with the teacher, crop by crop."""
    shared: Counter[str] = Counter()
    either: Counter[str] = Counter()
    worn: list[tuple[bool, bool]] = []  # by the teacher, by the student
    for target in targets:
        image, soft_labels = target.decoded()
        teacher, student = teachers_parsing(soft_labels), parse(image)
        for name, value in CLASSES.items():
            ours, theirs = student.labels == value, teacher.labels == value
            for prefix, where in (("", target.inside_mask()), ("whole_", slice(None))):
                shared[prefix + name] += int((ours & theirs)[where].sum())
                either[prefix + name] += int((ours | theirs)[where].sum())
        worn.append((wears_glasses(teacher), wears_glasses(student)))
    hits = sum(t and s for t, s in worn)
    teachers, students = sum(t for t, _ in worn), sum(s for _, s in worn)
    return Agreement(
        len(worn),
        **{name: shared[name] / max(either[name], 1) for name in either},
        glasses_precision=hits / max(students, 1),
        glasses_recall=hits / max(teachers, 1),
        glasses_f1=2 * hits / max(teachers + students, 1),
        glasses_worn=teachers,
    )


def by_collection(targets: list[Target], parse: Callable[[np.ndarray], Parsing]) -> dict[str, dict[str, float]]:
    """Measures each collection by itself; plain values, fit for JSON."""
    names = sorted({target.collection for target in targets})
    return {name: asdict(measure((target for target in targets if target.collection == name), parse)) for name in names}
