"""What the configs of the networks check their fields with."""

from __future__ import annotations

from collections.abc import Iterable

from capricious.errors import ConfigError


def check_choice(config: object, field: str, allowed: Iterable[object]) -> None:
    """Raises ConfigError, naming the field, unless its value is one of `allowed`."""
    value = getattr(config, field)
    if value not in (allowed := tuple(allowed)):
        raise ConfigError(
            f"{type(config).__name__}.{field} must be one of {', '.join(map(str, allowed))}, found: {value!r}"
        )


def check_positive(config: object, *fields: str) -> None:
    """Raises ConfigError, naming the field, unless all of these fields are integers ≥ 1."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{type(config).__name__}.{field} must be an integer ≥ 1, found: {value!r}")
