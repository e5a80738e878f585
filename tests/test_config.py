"""Configurations from YAML and flags."""

from dataclasses import dataclass, field

import pytest

from capricious.config import parse, resolved
from capricious.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    batch_size: int = 3

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")


@dataclass(frozen=True)
class Outer:
    data: str
    ages: tuple[float, ...] = (20.0, 60.0)
    training: Inner = field(default_factory=Inner)


def read(*argv):
    return parse(Outer, argv, description="a test").config


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = write(tmp_path, "data: pictures\ntraining: {batch_size: 8}\n")
    assert read("--config", path) == Outer("pictures", training=Inner(8))
    assert read("--config", path, "--training.batch-size", "9") == Outer("pictures", training=Inner(9))


def test_resolved_reads_back_as_itself(tmp_path):
    config = Outer("pictures", (5.0, 50.5), Inner(7))
    assert read("--config", write(tmp_path, resolved(config))) == config


@pytest.mark.parametrize(
    "text, message",
    [
        ("data: x\ntraining: {batch: 8}", "training: unknown field 'batch'; must be one of batch_size"),
        ("data: x\ntraining: {batch_size: 0}", "batch_size must be at least 1"),
        ("data: x\ntraining: {batch_size: many}", "training.batch_size"),
        ("- a list", "must hold a mapping"),
        ("data: [", "not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        read("--config", write(tmp_path, text))


def test_a_bad_flag_is_refused_with_the_reason(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--data", "x", "--training.batch-size", "0")
    assert stop.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_a_file_may_leave_the_rest_to_the_flags(tmp_path):
    path = write(tmp_path, "ages: [5]\ntraining: {batch_size: 8}\n")
    assert read("--config", path, "--data", "pictures") == Outer("pictures", (5.0,), Inner(8))
