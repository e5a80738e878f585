"""Which variants of a sitter are asked for: ages, genders and glasses, in a fixed order and under fixed names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product

from capricious.errors import ConfigError
from capricious.faces.attributes import GLASSES, MAX_AGE, Attributes, parse_gender

MAX_VARIANTS = 64
"""Most variants of one sweep, the source included: a typing error must not cost an hour of rendering."""

SOURCE = "source"
"""Name of the variant with the sitter's own attributes, i.e. the network's reconstruction. It is rendered
in every sweep: what goes back into the painting is the difference between a variant and this one."""

GENDERS = ("female", "male")

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"


@dataclass(frozen=True)
class Variant:
    """One rendering of a sitter.

    Attributes:
        name: unique in its sweep and safe in a file name, e.g. "age-30" or "age-30_glasses-sun".
        changes: attribute → value (age in years, gender 0…1, glasses by name); the sitter's other
            attributes stay as they are.
    """

    name: str
    changes: dict[str, object] = field(default_factory=dict)

    def of(self, attributes: Attributes) -> Attributes:
        """Returns the sitter's attributes with this variant's changes; what is unknown stays unknown."""
        return attributes.override(**self.changes)


@dataclass(frozen=True)
class Sweep:
    """The cross product of what is asked for; an empty tuple leaves the sitter's own value alone.

    Attributes:
        ages: years, 0…120.
        genders: of GENDERS.
        glasses: of GLASSES.

    Raises:
        ConfigError: a value is out of its range or stands there twice, or there are too many variants.
    """

    ages: tuple[float, ...] = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
    genders: tuple[str, ...] = ()
    glasses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for age in self.ages:
            if not 0.0 <= age <= MAX_AGE:
                raise ConfigError(f"ages must be in 0…{MAX_AGE:g} years, found: {age:g}")
        for name, allowed in (("genders", GENDERS), ("glasses", GLASSES)):
            for value in getattr(self, name):
                if value not in allowed:
                    raise ConfigError(f"{name} must be of {', '.join(allowed)}, found: {value!r}")
        for name in ("ages", "genders", "glasses"):
            words = [v if isinstance(v, str) else f"{v:g}" for v in getattr(self, name)]
            if len(set(words)) < len(words):
                raise ConfigError(f"{name} must be different from each other, found: {', '.join(words)}")
        count = len(self._names_and_changes()) + 1
        if count > MAX_VARIANTS:
            raise ConfigError(
                f"a sweep has at most {MAX_VARIANTS} variants, the source included; found {count}. "
                "Ask for fewer ages, or for genders and glasses in separate sweeps"
            )

    @classmethod
    def parse(cls, ages: str | None = None, genders: str = "", glasses: str = "") -> Sweep:
        """Reads a sweep from texts, as flags, YAML files and HTTP requests give it.

        Args:
            ages: as parse_ages() reads them; None for the default ages, "" to leave the age alone.
            genders, glasses: names separated by commas; "" to leave them alone.

        Raises:
            ConfigError: as the class, or a text cannot be read.
        """
        ages_ = cls.ages if ages is None else parse_ages(ages)
        return cls(ages_, _words(genders), _words(glasses))

    def looks(self) -> list[Variant]:
        """Returns the sweep without its ages: the rows of a contact sheet. At least one, perhaps unchanged."""
        looks = []
        for gender, glasses in product(self.genders or (None,), self.glasses or (None,)):
            changes: dict[str, object] = {}
            if gender is not None:
                changes["gender"] = parse_gender(gender)
            if glasses is not None:
                changes["glasses"] = glasses
            name = "_".join(
                f"{key}-{value}" for key, value in (("gender", gender), ("glasses", glasses)) if value is not None
            )
            looks.append(Variant(name, changes))
        return looks

    def variants(self) -> list[Variant]:
        """Returns the source, then all ages (in the order asked for) of the first look, then of the second, …

        The same for every sitter, so that a plan can be expanded before anybody was looked at.
        """
        return [Variant(SOURCE), *self._names_and_changes()]

    def at(self, age: float | None, look: Variant) -> Variant:
        """Returns the variant at one age (None: the sitter's own) of one look."""
        names = [look.name] if look.name else []
        if age is None:
            return Variant(look.name or SOURCE, dict(look.changes))
        return Variant("_".join([f"age-{age:g}", *names]), {"age": float(age), **look.changes})

    def _names_and_changes(self) -> list[Variant]:
        asked = [self.at(age, look) for look in self.looks() for age in self.ages or (None,)]
        return [variant for variant in asked if variant.changes]


def parse_ages(text: str) -> tuple[float, ...]:
    """Reads "10:80:10" (from:to:step, the end included, as museums count) or "10,30,60"; "" gives no ages.

    Raises:
        ConfigError: the text is neither; the message says what was found.
    """
    text = text.strip()
    if text == "":
        return ()
    if re.fullmatch(rf"\s*{_NUMBER}\s*(,\s*{_NUMBER}\s*)*", text):
        return tuple(float(part) for part in text.split(","))
    if not re.fullmatch(rf"\s*{_NUMBER}\s*:\s*{_NUMBER}\s*:\s*{_NUMBER}\s*", text):
        raise ConfigError(f'ages must read like "10:80:10" (from:to:step) or "10,30,60", found: {text!r}')
    first, last, step = (float(part) for part in text.split(":"))
    if step <= 0 or last < first:
        raise ConfigError(f"ages from:to:step need from ≤ to and a step above 0, found: {text!r}")
    count = int((last - first) / step + 1e-9) + 1
    if count > MAX_VARIANTS:
        raise ConfigError(f"ages {text!r} are {count} ages; a sweep has at most {MAX_VARIANTS} variants")
    return tuple(round(first + i * step, 6) for i in range(count))


def _words(text: str | Iterable[str]) -> tuple[str, ...]:
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip().lower() for part in parts if part.strip())
