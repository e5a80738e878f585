"""examples/train_default.sh takes days: here another program stands for python, and what it is called with is read."""

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from capricious.cluster.prepare import PrepareConfig
from capricious.config import parse
from capricious.training import __main__ as trainer
from capricious.training import estimator

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    folder = tmp_path_factory.mktemp("calls")
    python = folder / "python"
    python.write_text('#!/usr/bin/env bash\n{ printf "%s\\t" "$@"; echo; } >> "$CALLS"\n')
    python.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls")}
    subprocess.run(["bash", ROOT / "examples/train_default.sh", "DATA", "RUNS"], env=environment, check=True)
    return [line.rstrip("\t").split("\t") for line in (folder / "calls").read_text().splitlines()]


def test_every_call_is_understood(calls, monkeypatch):
    monkeypatch.chdir(ROOT)
    programs = {
        ("jobs/prepare.py",): (1, PrepareConfig),
        ("-m", "capricious.training"): (2, trainer.Arguments),
        ("-m", "capricious.training.estimator"): (2, estimator.Arguments),
    }
    understood = 0
    for call in calls:
        for start, (skipped, config) in programs.items():
            if tuple(call[: len(start)]) == start:
                parse(config, call[skipped:], description="")
                understood += 1
    assert understood == len(calls) - sum(call[0] == "examples/ship_bundle.py" for call in calls) >= 10


def test_every_stage_begins_from_what_was_made_before(calls):
    made: set[str] = set()
    for call in calls:
        if call[0] == "examples/ship_bundle.py":
            needed, out = [call[1], *(call[4:] if "--mix" in call else [])], call[2]
        elif call[:2] == ["-m", "capricious.training"]:
            needed = [value for flag, value in pairwise(call) if flag == "--training.warm-start"]
            out = call[call.index("--out") + 1]
        else:
            continue
        for folder in needed:
            assert any(folder == each or folder.startswith(f"{each}/") for each in made), f"{folder} before it is made"
        made.add(out)
