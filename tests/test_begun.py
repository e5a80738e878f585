"""A picture that kills the process that looks at it ends as a row of the rejects, and the others are done."""

import json
import os

import pytest

from capricious.cluster.begun import Begun
from capricious.cluster.plan import BatchConfig, make_plan
from capricious.cluster.shards import ShardWorker, run_shards
from capricious.data import storage
from capricious.data.collections import Source
from capricious.data.collections.parts import write_part


class Death(BaseException):
    """What a test raises in place of the end of the process."""


class Recorder(ShardWorker):
    """Does the pictures of a shard; dies over one."""

    def __init__(self, out, deadly="b", run="first"):
        super().__init__(out)
        self.deadly, self.run, self.order = deadly, run, []

    def run_shard(self, shard, items):
        found = {source.uri: result for source, result in self.attempt(items, self._do)}
        self.outcomes = found
        failed = [result for result in found.values() if result != "done"]
        return {"done": len(found) - len(failed), "failed": len(failed)}

    def _do(self, source, data):
        self.order.append(source.uri)
        if data.decode() == self.deadly:
            raise Death
        return "done"


@pytest.fixture
def shard(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    write_part(str(tmp_path / "out"), 0, [Source(str(tmp_path / name)) for name in "abc"])
    return str(tmp_path / "out")


def start(out, **options):
    worker = Recorder(out, **options)
    worker({"shard": [0]})
    return list(worker.outcomes.values())


def die(out, times, **options):
    for _ in range(times):
        with pytest.raises(Death):
            start(out, **options)


def test_after_a_death_without_a_name_and_two_with_it_the_picture_is_rejected(shard):
    die(shard, 3)
    first, deadly, last = start(shard)
    assert (first, last) == ("done", "done")
    assert (deadly["stage"], deadly["reason"]) == ("internal", "killed-its-worker")
    assert deadly["detail"].startswith("2 workers died with this picture in hand")


def test_each_death_counts_for_the_picture_that_was_in_hand(shard):
    die(shard, 2, deadly="a")
    die(shard, 1, deadly="b")
    die(shard, 1, deadly="c")
    assert start(shard, deadly="") == ["done"] * 3


def test_deaths_of_another_run_do_not_count(shard):
    die(shard, 2, run="stopped on purpose")
    die(shard, 3)
    assert start(shard)[1]["reason"] == "killed-its-worker"


def test_a_calm_shard_writes_one_note_and_no_more(shard, monkeypatch):
    written, write = [], storage.write_atomic
    monkeypatch.setattr(storage, "write_atomic", lambda uri, data: (written.append(json.loads(data)), write(uri, data)))
    assert start(shard, deadly="") == ["done"] * 3
    assert written == [{"run": "first", "in_hand": None, "deaths": {}}]


def test_a_worker_that_stands_alone_writes_nothing(shard):
    assert start(shard, deadly="", run="") == ["done"] * 3
    assert not storage.exists(f"{shard}/begun")


def test_what_ended_after_the_last_picture_is_no_pictures_fault(shard):
    die(shard, 1, deadly="c")
    assert start(shard, deadly="") == ["done"] * 3
    begun = Begun(shard, 0, "first")
    assert begun.start() and begun.take(Source("c")).refused is None


@pytest.mark.slow
def test_a_process_that_ends_in_the_middle(ray_cluster, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(b"deadly" if number == 2 else b"harmless")
    plan = make_plan(BatchConfig(source=str(tmp_path / "pictures"), out=str(tmp_path / "out"), shard_size=3), {}, 1)
    assert [plan.size_of(shard) for shard in range(plan.shards)] == [2, 2, 2]

    class Deadly(ShardWorker):
        KIND = "prepare"

        def run_shard(self, shard, items):
            results = [result for _, result in self.attempt(items, self._do)]
            failed = [result for result in results if result != "done"]
            return {"done": len(results) - len(failed), "failed": len(failed), "reasons": failed}

        def _do(self, source, data):
            if data == b"deadly":
                os.abort()
            return "done"

    rows = []
    run_shards(Deadly, {"out": plan.out}, plan, list(range(plan.shards)), 1, "test", then=rows.append)
    assert sum(row["done"] for row in rows) == 5
    (failed,) = (row["reasons"] for row in rows if row["failed"])
    assert failed[0]["uri"].endswith("2.jpg") and failed[0]["reason"] == "killed-its-worker"
    assert not (tmp_path / "out" / "begun").exists()
