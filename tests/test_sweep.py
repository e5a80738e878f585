"""Which variants a sweep has, and what a user sees who asks for something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capricious.errors import ConfigError
from capricious.faces.attributes import Attributes
from capricious.render.sweep import MAX_VARIANTS, SOURCE, Sweep, Variant, parse_ages


@pytest.mark.parametrize(
    ("text", "ages"),
    [
        ("10:80:10", (10, 20, 30, 40, 50, 60, 70, 80)),
        ("20:65:20", (20, 40, 60)),
        ("30:30:5", (30,)),
        ("0.1:0.5:0.1", (0.1, 0.2, 0.3, 0.4, 0.5)),  # the end is included in spite of binary fractions
        (" 30, 10 ,60", (30, 10, 60)),
        ("7.5", (7.5,)),
        ("", ()),
        ("0..3", (0, 1, 2, 3)),
        ("0..99", tuple(range(100))),  # as the paper's own tool
    ],
)
def test_ages_are_read(text, ages):
    assert parse_ages(text) == ages


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ten", "'ten'"),
        ("10:80", "from:to:step"),
        ("10,,20", "10,30,60"),
        ("1:2:3:4", "from:to:step"),
        ("80:10:10", "from ≤ to"),
        ("10:80:0", "step above 0"),
        ("0:100:0.001", "100001 ages"),
        ("nan", "'nan'"),
        ("0..300", "301 ages"),
        ("0.." + "9" * 400, "of ordinary size"),
        ("9" * 400 + ":" + "9" * 400 + ":1", "of ordinary size"),
        ("0:1:0." + "0" * 320 + "1", "of ordinary size"),
    ],
)
def test_unreadable_ages_are_explained(text, says):
    with pytest.raises(ConfigError, match="ages") as error:
        parse_ages(text)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"ages": (130.0,)}, "0…120"),
        ({"ages": (-1.0,)}, "-1"),
        ({"ages": (float("nan"),)}, "nan"),
        ({"ages": (30.0, 30.0000001)}, "different"),
        ({"genders": ("man",)}, "female, male"),
        ({"glasses": ("monocle",)}, "none, reading, sun"),
        ({"glasses": ("sun", "sun")}, "different"),
        ({"ages": tuple(i / 2 for i in range(MAX_VARIANTS))}, "129"),
        ({"smiles": (1.5,)}, "0…1"),
        ({"emotions": ("bored",)}, "neutral, happy"),
        ({"styles": (-0.5,)}, "-0.5"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(arguments, says):
    with pytest.raises(ConfigError) as error:
        Sweep(**arguments)
    assert says in str(error.value)


def test_names_and_order():
    assert [v.name for v in Sweep(ages=(30.0, 7.5)).variants()] == [SOURCE, "age-30", "age-7.5"]
    names = [v.name for v in Sweep.parse("20,40", "female,male", "sun").variants()]
    assert names == [
        SOURCE,
        "age-20_gender-female_glasses-sun",
        "age-40_gender-female_glasses-sun",
        "age-20_gender-male_glasses-sun",
        "age-40_gender-male_glasses-sun",
    ]
    assert [v.name for v in Sweep.parse("", "male").variants()] == [SOURCE, "gender-male"]
    assert [v.name for v in Sweep(ages=()).variants()] == [SOURCE]


def test_the_largest_sweep_is_allowed():
    assert len(Sweep(ages=tuple(i / 2 for i in range(MAX_VARIANTS - 1))).variants()) == MAX_VARIANTS


def test_a_variant_changes_only_what_it_names():
    sitter = Attributes(age=41.0, gender=0.2, smile=0.7)
    assert Variant(SOURCE).of(sitter) == sitter
    source, young, old = Sweep.parse("20,80", glasses="sun").variants()
    assert source.of(sitter) == sitter
    assert old.of(sitter) == Attributes(age=80.0, gender=0.2, smile=0.7, glasses="sun")
    # An unknown age stays unknown in the source (known bit 0), and is known where it was asked for.
    assert source.of(Attributes()).age is None
    assert young.of(Attributes()).age == 20.0


def test_smiles_emotions_and_styles():
    variants = Sweep.parse("", "", "", "0,1", "happy", "0.25:1:0.75").variants()
    assert [v.name for v in variants] == [
        SOURCE,
        "smile-0_emotion-happy_style-0.25",
        "smile-0_emotion-happy_style-1",
        "smile-1_emotion-happy_style-0.25",
        "smile-1_emotion-happy_style-1",
    ]
    assert [v.style for v in variants] == [0, 0.25, 1, 0.25, 1]
    shown = variants[-1].of(Attributes(age=30.0))
    assert shown == Attributes(age=30.0, smile=1.0, emotion=(0, 1, 0, 0, 0, 0, 0, 0))
    only_style = Sweep.parse("", styles="1").variants()
    assert [(v.name, v.changes, v.style) for v in only_style] == [(SOURCE, {}, 0.0), ("style-1", {}, 1.0)]


@given(
    st.lists(st.integers(0, 120), unique=True, max_size=9),
    st.lists(st.sampled_from(["female", "male"]), unique=True),
    st.lists(st.sampled_from(["none", "reading", "sun"]), unique=True),
)
def test_sweeps_are_cross_products_with_unique_safe_names(ages, genders, glasses):
    sweep = Sweep(tuple(map(float, ages)), tuple(genders), tuple(glasses))
    variants = sweep.variants()
    names = [v.name for v in variants]
    asked = max(1, len(ages)) * max(1, len(genders)) * max(1, len(glasses))
    assert len(names) == 1 + (asked if ages or genders or glasses else 0)
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.") for name in names)
    # Every cell of the sheet (look × age) is a variant of the sweep.
    assert {sweep.at(age, look).name for look in sweep.looks() for age in sweep.ages or (None,)} <= set(names)
    assert sweep == Sweep.parse(",".join(map(str, ages)), ",".join(genders), ",".join(glasses))
