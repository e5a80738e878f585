"""Which variants of a sitter are asked for: ages, genders and glasses, in a fixed order and under fixed names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product

from capricious.errors import ConfigError
from capricious.faces.attributes import EMOTIONS, GENDERS, GLASSES, MAX_AGE, Attributes, parse_gender
from capricious.model.learnt import Learnt

MAX_VARIANTS = 128
"""Most variants of one sweep, the source included: a typing error must not cost an hour of rendering."""

SOURCE = "source"
"""Name of the variant with the sitter's own attributes, i.e. the network's reconstruction. It is rendered
in every sweep: what goes back into the painting is the difference between a variant and this one."""

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"


@dataclass(frozen=True)
class Variant:
    """One rendering of a sitter.

    Attributes:
        name: unique in its sweep and safe in a file name, e.g. "age-30" or "age-30_glasses-sun".
        changes: attribute → value (age in years, gender and smile 0…1, glasses by name, emotion as probabilities);
            the sitter's other attributes stay as they are.
        style: share of a second portrait's style code, 0 (the sitter's own) … 1.
    """

    name: str
    changes: dict[str, object] = field(default_factory=dict)
    style: float = 0.0

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
        smiles: 0 (none) … 1.
        emotions: of EMOTIONS.
        styles: shares of a second portrait's style code, 0…1: between them lies the way from one sitter's colours,
            hair and light to the other's, on this sitter's label map.

    Raises:
        ConfigError: a value is out of its range or stands there twice, or there are too many variants.
    """

    ages: tuple[float, ...] = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
    genders: tuple[str, ...] = ()
    glasses: tuple[str, ...] = ()
    smiles: tuple[float, ...] = ()
    emotions: tuple[str, ...] = ()
    styles: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, highest, unit in (("ages", MAX_AGE, " years"), ("smiles", 1.0, ""), ("styles", 1.0, "")):
            for value in getattr(self, name):
                if not 0.0 <= value <= highest:
                    raise ConfigError(f"{name} must be in 0…{highest:g}{unit}, found: {value:g}")
        for name, allowed in (("genders", GENDERS), ("glasses", GLASSES), ("emotions", EMOTIONS)):
            for value in getattr(self, name):
                if value not in allowed:
                    raise ConfigError(f"{name} must be of {', '.join(allowed)}, found: {value!r}")
        for name in ("ages", "genders", "glasses", "smiles", "emotions", "styles"):
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
    def parse(
        cls,
        ages: str | None = None,
        genders: str = "",
        glasses: str = "",
        smiles: str = "",
        emotions: str = "",
        styles: str = "",
    ) -> Sweep:
        """Reads a sweep from texts, as flags, YAML files and HTTP requests give it.

        Args:
            ages: as parse_ages() reads them; None for the default ages, "" to leave the age alone.
            genders, glasses, emotions: names separated by commas; "" to leave them alone.
            smiles, styles: numbers as parse_ages() reads them.

        Raises:
            ConfigError: as the class, or a text cannot be read.
        """
        return cls(
            cls.ages if ages is None else parse_ages(ages),
            _words(genders),
            _words(glasses),
            parse_ages(smiles, "smiles"),
            _words(emotions),
            parse_ages(styles, "styles"),
        )

    def looks(self) -> list[Variant]:
        """Returns the sweep without its ages: the rows of a contact sheet. At least one, perhaps unchanged."""
        looks = []
        for gender, glasses, smile, emotion, style in product(
            self.genders or (None,),
            self.glasses or (None,),
            self.smiles or (None,),
            self.emotions or (None,),
            self.styles or (None,),
        ):
            changes: dict[str, object] = {}
            if gender is not None:
                changes["gender"] = parse_gender(gender)
            if glasses is not None:
                changes["glasses"] = glasses
            if smile is not None:
                changes["smile"] = float(smile)
            if emotion is not None:
                changes["emotion"] = tuple(float(name == emotion) for name in EMOTIONS)
            named = {"gender": gender, "glasses": glasses, "smile": smile, "emotion": emotion, "style": style}
            words = (
                f"{key}-{value if isinstance(value, str) else f'{value:g}'}"
                for key, value in named.items()
                if value is not None
            )
            looks.append(Variant("_".join(words), changes, style or 0.0))
        return looks

    def variants(self) -> list[Variant]:
        """Returns the source, then all ages (in the order asked for) of the first look, then of the second, …

        The same for every sitter, so that a plan can be expanded before anybody was looked at.
        """
        return [Variant(SOURCE), *self._names_and_changes()]

    def at(self, age: float | None, look: Variant) -> Variant:
        """Returns the variant at one age (None: the sitter's own) of one look."""
        if age is None:
            return replace(look, name=look.name or SOURCE)
        names = [f"age-{age:g}", *([look.name] if look.name else [])]
        return Variant("_".join(names), {"age": float(age), **look.changes}, look.style)

    def _names_and_changes(self) -> list[Variant]:
        asked = [self.at(age, look) for look in self.looks() for age in self.ages or (None,)]
        return [variant for variant in asked if variant.name != SOURCE]


def parse_ages(text: str, name: str = "ages") -> tuple[float, ...]:
    """Reads "10:80:10" (from:to:step, the end included, as museums count), "0..99" (every year) or "10,30,60".

    Args:
        text: "" gives no ages.
        name: of the field, for messages.

    Raises:
        ConfigError: the text is none of these; the message says what was found.
    """
    text = text.strip()
    if text == "":
        return ()
    if re.fullmatch(rf"\s*{_NUMBER}\s*(,\s*{_NUMBER}\s*)*", text):
        return tuple(float(part) for part in text.split(","))
    years = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    spelled = f"{years[1]}:{years[2]}:1" if years else text
    if not re.fullmatch(rf"\s*{_NUMBER}\s*:\s*{_NUMBER}\s*:\s*{_NUMBER}\s*", spelled):
        raise ConfigError(f'{name} must read like "10:80:10" (from:to:step), "0..99" or "10,30,60", found: {text!r}')
    first, last, step = (float(part) for part in spelled.split(":"))
    if step <= 0 or last < first:
        raise ConfigError(f"{name} from:to:step need from ≤ to and a step above 0, found: {text!r}")
    steps = (last - first) / step + 1e-9
    if not math.isfinite(steps):  # hundreds of digits are infinite as a float
        raise ConfigError(f"{name} must be numbers of ordinary size, found: {text!r}")
    count = int(steps) + 1
    if count > MAX_VARIANTS:
        raise ConfigError(f"{name} {text!r} are {count} {name}; a sweep has at most {MAX_VARIANTS} variants")
    return tuple(round(first + i * step, 6) for i in range(count))


def _words(text: str | Iterable[str]) -> tuple[str, ...]:
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip().lower() for part in parts if part.strip())


def refuse_unlearnt(learnt: Learnt | None, variants: Iterable[Variant]) -> None:
    """Refuses variants of what a bundle has never seen; refuses nothing where it does not say.

    Raises:
        ConfigError: names the attribute and what the bundle knows.
    """
    if learnt is not None:
        for variant in variants:
            learnt.refuse_unknown(variant.changes)


def guesses(learnt: Learnt | None, variants: Iterable[Variant]) -> frozenset[str]:
    """Returns the names of the variants at ages that a bundle has not learnt; none where it does not say."""
    return frozenset(v.name for v in variants if learnt is not None and learnt.extrapolates(v.changes))
