"""Rejects that are tried again: what an earlier run has made is kept, whatever kills the second one.

The shards run in a plain loop in place of Ray Data, and a stand-in annotates: what counts is which pictures it sees.
"""

from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from capricious.cluster import prepare as prepare_module
from capricious.cluster.prepare import PrepareConfig, prepare
from capricious.data.prepared import PreparedDataset, read_receipts
from capricious.data.records import Face
from capricious.errors import Rejection
from capricious.faces.attributes import Attributes
from capricious.faces.image import encode

SIZE, SHARDS = 16, 5


class Annotates:
    """Finds one face in every picture but the red ones, and counts what it was shown."""

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self, config):
        self.stopwatch = None

    def annotate(self, picture, labels):
        if picture[0, 0, 0] == 255:
            self.seen["refused"] += 1
            raise Rejection("detect", "no-face", "it is red")
        self.seen["found"] += 1
        return [
            Face(
                image=picture,
                label_map=np.zeros((SIZE, SIZE), np.uint8),
                landmarks=np.zeros((68, 2), np.float32),
                quad=np.array([[0, 0], [0, SIZE], [SIZE, SIZE], [SIZE, 0]], np.float32),
                attributes=Attributes(),
                attribute_source=dict.fromkeys(vars(Attributes())),
                detection_score=1.0,
                landmark_score=1.0,
                pose=np.zeros(3, np.float32),
                resolution_score=1.0,
                inside_score=1.0,
            )
        ]


@pytest.fixture
def lasting(monkeypatch):
    """Returns the shards that a run lasts for, in a list to be changed."""
    shards = [SHARDS]

    def run(worker, arguments, plan, todo, workers, what):
        actor = worker(**arguments)
        for number, shard in enumerate(todo):
            if number == shards[0]:
                raise KeyboardInterrupt
            actor({"shard": [shard]})

    monkeypatch.setattr(prepare_module, "Annotator", Annotates)
    monkeypatch.setattr(prepare_module, "run_shards", run)
    monkeypatch.setattr(prepare_module, "worker_count", lambda *_: 1)
    return shards


def test_a_retry_that_is_killed_keeps_what_was_made_before_it(lasting, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4 * SHARDS):
        colour = (255, 0, 0) if number % 4 == 0 else (0, number, 0)
        picture = np.full((SIZE, SIZE, 3), colour, np.uint8)
        (folder / f"{number:02d}.png").write_bytes(encode(picture, "png"))
    config = PrepareConfig(source=str(folder), out=str(tmp_path / "out"), shard_size=4, workers=1, test_share=0.0)
    first = prepare(config)
    assert (first.portraits, first.rejects) == (3 * SHARDS, SHARDS)

    Annotates.seen.clear()
    lasting[0] = 2
    with pytest.raises(KeyboardInterrupt):
        prepare(replace(config, retry_rejects=True))
    assert len(read_receipts(config.out)) == SHARDS and Annotates.seen == {"refused": 2}

    lasting[0] = SHARDS
    assert prepare(replace(config, retry_rejects=True)) == first
    assert Annotates.seen == {"refused": 2 + SHARDS}  # no portrait was made twice
    assert len(PreparedDataset(config.out, None)) == 3 * SHARDS
