"""The plan of a batch job: what it holds, and what makes an output folder refuse a command."""

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass

import pytest

from capricious.cluster import job as job_module
from capricious.cluster.batch_metrics import FOLDER
from capricious.cluster.job import run_job
from capricious.cluster.plan import PLAN, BatchConfig, exit_code, make_plan, select, shard_size
from capricious.data.collections import Source
from capricious.data.collections.parts import read_part
from capricious.errors import CapriciousError, ConfigError


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(23):
        (folder / f"{number:02d}.jpg").write_bytes(b"")
    (folder / "labels.csv").write_text("file,age\n03.jpg,61\n")
    return folder


def a_config(collection, tmp_path, **changes):
    return BatchConfig(source=str(collection), out=str(tmp_path / "out"), **changes)


def test_a_plan_holds_every_input_once_with_its_labels(collection, tmp_path):
    plan = make_plan(a_config(collection, tmp_path, shard_size=5), {"quality": 1}, workers=1)
    assert (plan.pictures, plan.shards, plan.fields["quality"]) == (23, 5, 1)
    parts = [read_part(plan.out, shard) for shard in range(plan.shards)]
    assert [len(part) for part in parts] == [plan.size_of(shard) for shard in range(5)] == [5, 5, 5, 5, 3]
    sources = [source for part in parts for source in part]
    assert sorted(s.uri.rsplit("/", 1)[1] for s in sources) == [f"{n:02d}.jpg" for n in range(23)]
    assert [s.labels.age for s in sources if s.labels.age is not None] == [61.0]


def test_the_first_plan_of_a_folder_holds(collection, tmp_path):
    first = make_plan(a_config(collection, tmp_path, shard_size=5), {}, workers=1)
    assert make_plan(a_config(collection, tmp_path, shard_size=9), {}, workers=3) == first


def test_an_output_folder_refuses_another_plan_and_names_the_field(collection, tmp_path):
    config, finder = a_config(collection, tmp_path), {"size": 64, "landmarks": "mesh"}
    make_plan(config, {"ages": (10, 20), "finder": finder}, workers=1)
    with pytest.raises(CapriciousError, match="another ages"):
        make_plan(config, {"ages": (10, 30), "finder": finder}, workers=1)
    with pytest.raises(CapriciousError, match='another finder.landmarks .*"mesh", now "dlib"'):
        make_plan(config, {"ages": (10, 20), "finder": {**finder, "landmarks": "dlib"}}, workers=1)
    with pytest.raises(CapriciousError, match="another limit"):
        make_plan(a_config(collection, tmp_path, limit=3), {"ages": [10, 20], "finder": finder}, workers=1)


def test_a_folder_goes_on_with_what_was_listed_at_its_start(collection, tmp_path, monkeypatch, capsys):
    config = a_config(collection, tmp_path)
    first = make_plan(config, {}, workers=1)
    assert capsys.readouterr().out == ""
    (collection / "new.jpg").write_bytes(b"")
    os.utime(tmp_path / "out" / PLAN, (0, 86400))
    monkeypatch.setattr(BatchConfig, "sources", lambda self: pytest.fail("listed again"))
    assert make_plan(config, {}, workers=1) == first
    told = capsys.readouterr().out
    assert f"the 23 pictures that {collection} had on 1970-01-02" in told and "another --out" in told


def test_an_output_folder_must_not_lie_in_its_collection(collection, tmp_path):
    for out in (collection, collection / "out"):
        with pytest.raises(CapriciousError, match="lies in the collection"):
            make_plan(BatchConfig(source=f"{collection}/", out=str(out)), {}, workers=1)
    beside = BatchConfig(source=str(collection), out=f"{collection}-out")
    assert make_plan(beside, {}, workers=1).pictures == 23


def test_a_plan_that_was_killed_half_written_is_written_anew(collection, tmp_path):
    config = a_config(collection, tmp_path, shard_size=5)
    plan = make_plan(config, {}, workers=1)
    (tmp_path / "out" / PLAN).unlink()
    (tmp_path / "out" / "plan" / "part-00001.parquet").write_bytes(b"half")
    assert make_plan(config, {}, workers=1) == plan
    assert len(read_part(plan.out, 1)) == 5
    assert json.loads((tmp_path / "out" / PLAN).read_text()) == plan.fields


def test_nothing_to_do_is_an_error_that_names_the_collection(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CapriciousError, match="empty has no files"):
        make_plan(a_config(tmp_path / "empty", tmp_path), {}, workers=1)


def test_shards_are_small_enough_to_give_every_worker_several():
    assert shard_size(103, workers=2, largest=512) == 13
    assert shard_size(10**6, workers=2, largest=512) == 512
    assert shard_size(1, workers=8, largest=512) == 1


def test_a_shard_s_last_inputs_fill_a_group_as_well():
    assert shard_size(103, workers=2, largest=512, together=4) == 12
    assert shard_size(10**6, workers=2, largest=510, together=4) == 508
    assert shard_size(20, workers=2, largest=512, together=4) == 3  # rather all workers busy than groups full


def test_a_limit_spreads_over_the_collection():
    sources = [Source(str(n)) for n in range(10)]
    assert [s.uri for s in select(sources, 4)] == ["0", "2", "5", "7"]
    assert select(sources, 99) == sources and select([], 5) == []


@dataclass(frozen=True)
class Batch:
    failure_share: float = 0.1
    accept_failures: bool = False


@pytest.mark.parametrize(("code", "words"), [(0, ""), (1, "more failed than --failure-share 10%"), (3, "some failed")])
def test_a_job_says_why_it_ends_as_it_does(code, words, ray_cluster, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["job"])
    assert run_job(Batch, lambda config: code, "A job.") == code
    told = capsys.readouterr().err
    assert words in told and bool(told) == bool(code)


@pytest.mark.parametrize(("code", "exits"), [(0, 0), (1, 1), (3, 0)])
def test_failures_that_are_accepted_fail_no_job(code, exits, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(job_module, "session", nullcontext)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--accept-failures"])
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert run_job(Batch, lambda config: code, "A job.") == exits
    assert bool(capsys.readouterr().err) == bool(code)  # it is told all the same, and counted
    assert f'exit_code{{kind="prepare"}} {code}.0' in (tmp_path / "capricious-prepare.prom").read_text()


def test_exit_codes():
    assert exit_code(10, 10, 0, 0.5) == 0
    assert exit_code(10, 6, 4, 0.5) == 3
    assert exit_code(10, 4, 6, 0.5) == 1 and exit_code(10, 0, 1, 1.0) == 1


@pytest.mark.parametrize("wrong", [{"shard_size": 0}, {"limit": -1}, {"workers": -1}, {"failure_share": 2.0}])
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BatchConfig(source="a", out="b", **wrong)
