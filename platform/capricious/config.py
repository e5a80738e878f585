"""One way to set every configuration: frozen dataclasses, filled from a YAML file, then from flags.

A configuration lives beside the code that it steers; this module only reads and prints it. Flags win over
the file, the file wins over the defaults: ``--config run.yaml --training.batch-size 64``. Flags need tyro alone,
so that a bare GPU machine can train; YAML files also need pydantic and PyYAML.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro

from capricious.errors import CapriciousError, ConfigError

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Parsed(Generic[Config]):
    """What the command line said: the configuration, and whether only to print it (``--dry-run``)."""

    config: Config
    dry_run: bool


def parse(config_type: type[Config], argv: Sequence[str] | None = None, *, description: str) -> Parsed[Config]:
    """Reads a configuration from ``--config FILE`` and flags.

    Args:
        config_type: a (nested) frozen dataclass; its field docstrings become the help.
        argv: arguments without the program's name; default: the process's own.
        description: first lines of ``--help``.

    Raises:
        ConfigError: the file is missing, not YAML, has unknown fields, or a value is refused.
        SystemExit: a flag is wrong (2) or ``--help`` was asked for (0).
    """
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config", type=Path)
    before.add_argument("--dry-run", action="store_true")
    known, rest = before.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    if known.config is not None:
        values = _read_yaml(known.config)
        _check(config_type, values, where=str(known.config), complete=False)
        # Before the flags of the command line: the last one of a name wins.
        rest = [*_as_flags(values), *rest]
    about = f"{description}\n\n--config FILE reads a YAML file first; --dry-run prints the resolved configuration."
    try:
        config = tyro.cli(config_type, args=rest, description=about)
    except ValueError as error:  # raised by a configuration's own __post_init__
        raise ConfigError(str(error)) from error
    return Parsed(config, known.dry_run)


def command(
    config_type: type[Config], run: Callable[[Config], object], argv: Sequence[str] | None = None, *, description: str
) -> int:
    """Runs a program that needs no Ray and returns its exit code.

    `--dry-run` prints the resolved configuration; an error that is meant for people ends as one line on stderr and 1.
    """
    try:
        parsed = parse(config_type, argv, description=description)
        if parsed.dry_run:
            print(resolved(parsed.config), end="")
        else:
            run(parsed.config)
    except CapriciousError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def from_mapping(config_type: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Builds a configuration from nested mappings, as read from YAML or JSON.

    Raises:
        ConfigError: an unknown field (named, with the known ones) or a refused value; `where` is in the message.
    """
    return _check(config_type, values, where, complete=True)


def to_mapping(config: Any) -> dict[str, Any]:
    """Returns a configuration as plain nested values, fit for JSON and YAML."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def resolved(config: Any) -> str:
    """Returns the whole configuration as YAML, in the order of its fields."""
    import yaml

    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} must hold a mapping of fields, found: {type(values).__name__}")
    return values


def _check(config_type: Any, values: Mapping[str, Any], where: str, complete: bool) -> Any:
    """Returns the configuration, or None if fields are missing that need not be there yet."""
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(config_type, values, where)
    try:
        return TypeAdapter(config_type).validate_python(dict(values))
    except ValidationError as error:
        wrong = [e for e in error.errors() if complete or e["type"] != "missing"]
        if wrong:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in wrong)
            raise ConfigError(f"{where}: {problems}") from error
        return None


def _as_flags(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    flags: list[str] = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if isinstance(value, Mapping):
            flags += _as_flags(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            flags.append(f"--{prefix}{'' if value else 'no-'}{name}")
        elif isinstance(value, list):
            flags += [f"--{prefix}{name}", *map(str, value)]
        else:
            flags += [f"--{prefix}{name}", str(value)]
    return flags


def _refuse_unknown(config_type: Any, values: Mapping[str, Any], where: str) -> None:
    # Pydantic ignores unknown keys of standard dataclasses; a misspelt field must not pass in silence.
    hints = typing.get_type_hints(config_type)
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{where}: unknown field {key!r}; must be one of {', '.join(hints)}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            _refuse_unknown(hints[key], value, f"{where}: {key}")
