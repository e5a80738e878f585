"""Attributes and their vector: order, the difference between 0 and unknown, and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capricious.faces.attributes import (
    EMOTIONS,
    GLASSES,
    MAX_AGE,
    VECTOR_FIELDS,
    VECTOR_SIZE,
    Attributes,
    parse_gender,
)


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


attributes = st.builds(
    Attributes,
    age=maybe(st.floats(0, MAX_AGE)),
    gender=maybe(st.floats(0, 1)),
    glasses=maybe(st.sampled_from(GLASSES)),
    smile=maybe(st.floats(0, 1)),
    emotion=maybe(st.tuples(*[st.floats(0, 1)] * len(EMOTIONS))),
)


@given(attributes)
def test_the_vector_round_trips(one: Attributes) -> None:
    vector = one.vector()
    assert vector.shape == (VECTOR_SIZE,) and vector.dtype == np.float32
    back = Attributes.from_vector(vector)
    assert (back.glasses, back.age is None) == (one.glasses, one.age is None)
    for name in ("age", "gender", "smile", "emotion"):
        known, found = getattr(one, name), getattr(back, name)
        assert (found is None) == (known is None)
        if known is not None:
            assert found == pytest.approx(known, rel=1e-6, abs=1e-5)
    assert np.allclose(back.vector(), vector, atol=1e-6)


def test_the_order_of_the_vector_is_the_versioned_one() -> None:
    """Released bundles depend on it: whoever changes it must raise VECTOR_VERSION."""
    assert VECTOR_SIZE == 19
    emotion = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    full = Attributes(age=42, gender=1.0, glasses="sun", smile=0.25, emotion=emotion).vector()
    expected = [0.42, 1, 0, 0, 1, 0.25, *emotion, 1, 1, 1, 1, 1]
    assert np.allclose(full, expected)
    assert VECTOR_FIELDS[:6] == ("age/100", "gender", "glasses=none", "glasses=reading", "glasses=sun", "smile")
    assert VECTOR_FIELDS[-5:] == tuple(f"known:{n}" for n in ("age", "gender", "glasses", "smile", "emotion"))


def test_zero_is_not_unknown() -> None:
    assert not np.array_equal(Attributes(age=0, gender=0.0, smile=0.0).vector(), Attributes().vector())
    assert not Attributes().vector().any()
    assert Attributes.from_vector(np.zeros(VECTOR_SIZE, np.float32)) == Attributes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"age": -1}, "age must be in 0…120"),
        ({"age": 121}, "age must be in 0…120"),
        ({"age": float("nan")}, "age must be in"),
        ({"gender": 1.5}, "gender must be in 0…1"),
        ({"smile": 2}, "smile must be in 0…1"),
        ({"glasses": "monocle"}, "none, reading, sun"),
        ({"emotion": (1.0,)}, "8 probabilities, found: 1"),
    ],
)
def test_values_out_of_range_are_named(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Attributes(**change)


@given(attributes, attributes)
def test_labels_come_before_estimates(labels: Attributes, estimates: Attributes) -> None:
    both = labels.or_else(estimates)
    sources = both.sources(labels)
    for name, source in sources.items():
        label, estimate = getattr(labels, name), getattr(estimates, name)
        assert getattr(both, name) == (estimate if label is None else label)
        expected = "label" if label is not None else "estimated" if estimate is not None else None
        assert source == expected


def test_override_changes_what_it_names_only() -> None:
    sitter = Attributes(age=30, gender=0.0, glasses="reading")
    assert sitter.override(age=70, glasses=None) == Attributes(age=70, gender=0.0)
    assert sitter.age == 30
    with pytest.raises(ValueError, match="age"):
        sitter.override(age=500)


@pytest.mark.parametrize(
    ("text", "value"), [("F", 0.0), (" female ", 0.0), ("woman", 0.0), ("Male", 1.0), ("m", 1.0), ("", None)]
)
def test_gender_is_read(text: str, value: float | None) -> None:
    assert parse_gender(text) == value


def test_gender_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="female or male"):
        parse_gender("unknown")
