"""Batches against a job server that is played: whose an output is, what is refused, and what is told of a job."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from capricious.cluster import ledger
from capricious.cluster.plan import BatchConfig, make_plan
from capricious.cluster.publish import REPORT
from capricious.cluster.render_config import RenderConfig
from capricious.config import parse
from capricious.data import storage
from capricious.errors import Rejection
from serve import batch_jobs
from serve.arguments import PortraitArguments
from serve.batch_jobs import Batches
from serve.problems import Problem
from serve.schemas import BatchRequest


class JobServer:
    """Takes jobs and does nothing with them."""

    def __init__(self) -> None:
        self.jobs: dict[str, SimpleNamespace] = {}

    def submit_job(self, *, submission_id: str, **job: object) -> None:
        self.jobs[submission_id] = SimpleNamespace(**job, status=JobStatus.RUNNING, message="", driver_exit_code=None)

    def list_jobs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(metadata={}, status=JobStatus.RUNNING), *self.jobs.values()]  # and somebody's shell

    def get_job_info(self, id: str) -> SimpleNamespace:
        if id not in self.jobs:
            raise RuntimeError("Request failed with status code 404")
        return self.jobs[id]

    def end(self, id: str, exit_code: int) -> None:
        self.jobs[id].status = JobStatus.FAILED if exit_code else JobStatus.SUCCEEDED
        self.jobs[id].driver_exit_code = exit_code
        self.jobs[id].message = f"Job entrypoint command failed with exit code {exit_code}, last available logs: …"


@pytest.fixture
def server():
    return JobServer()


@pytest.fixture
def batches(tmp_path, server):
    found = Batches(PortraitArguments(batch_prefixes=str(tmp_path)))
    found._client = server
    (tmp_path / "in").mkdir()
    (tmp_path / "in/king.jpg").write_bytes(b"x")
    return found


def request(folder: Path, out: str = "out/anna") -> BatchRequest:
    return BatchRequest(source=f"{folder}/in", out=f"{folder}/{out}")


def rendered(folder: Path, out: str = "out/anna") -> None:
    """Leaves what a job would, all of it failed."""
    plan = make_plan(BatchConfig(source=f"{folder}/in", out=f"{folder}/{out}"), {"products": ["sheet", "age-20"]}, 1)
    why = Rejection("detect", "no-face", "of no concern to others")
    storage.write_atomic(f"{plan.out}/{REPORT}", b'{"failed": 1}')
    for shard in range(plan.shards):
        sources = [source for source, _ in ledger.planned(plan, shard)]
        rows = [row for source in sources for row in ledger.rows_of(plan, source, "failed", 1, why)]
        ledger.write_part(plan.out, shard, rows)


def reason(call, *arguments) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        call(*arguments)
    return caught.value.status_code, caught.value.reason


def test_nobody_reads_or_writes_the_output_of_another(batches, server, tmp_path):
    body = batches.submit(request(tmp_path), "anna")
    rendered(tmp_path)
    server.end(body.id, 0)
    # Rows of a shard go together: each by itself would take longer to send than to read.
    (shard,) = batches.results(body.id, "anna")
    assert [json.loads(line)["reason"] for line in shard.split(b"\n")[:-1]] == ["no-face", "no-face"]
    for out in ("out/anna", "out/anna/ledger"):
        assert reason(batches.submit, request(tmp_path, out), "ben") == (409, "out-taken")
    assert reason(batches.submit, request(tmp_path, "out/anna/ledger"), "anna") == (409, "out-taken")
    # A job that names it all the same, from before there were owners.
    metadata = {"caller": "ben", "source": f"{tmp_path}/in", "out": f"{tmp_path}/out/anna"}
    server.submit_job(submission_id="render-old", entrypoint="", metadata=metadata)
    assert not list(batches.results("render-old", "ben")) and batches.status("render-old", "ben").pictures is None
    assert len(server.jobs) == 2
    server.end("render-old", 0)
    assert batches.submit(request(tmp_path), "anna").pictures == 1  # her own: resumed


def test_the_output_of_a_job_that_was_started_by_hand_is_no_callers(batches, tmp_path):
    rendered(tmp_path)
    assert reason(batches.submit, request(tmp_path), "anna") == (409, "out-taken")


@pytest.mark.parametrize(
    ("exit_code", "status", "failed"), [(0, "succeeded", 1), (3, "succeeded", 1), (1, "failed", None)]
)
def test_a_batch_of_which_some_pictures_failed_has_succeeded(batches, server, tmp_path, exit_code, status, failed):
    id = batches.submit(request(tmp_path), "anna").id
    assert batches.status(id, "anna").failed is None
    rendered(tmp_path)
    server.end(id, exit_code)
    body = batches.status(id, "anna")
    assert (body.status, body.done, body.failed) == (status, 1, failed)
    assert ("exit code" in body.message) == (exit_code != 3)  # Ray's message ends in a page of the log


def test_the_job_is_told_where_it_may_read(batches, server, tmp_path):
    batches.submit(request(tmp_path), "anna")
    (job,) = server.jobs.values()
    words = shlex.split(job.entrypoint)
    assert words[words.index("--only-below") + 1] == f"{tmp_path}/"
    config = parse(RenderConfig, words[2:], description="").config
    assert (config.out, config.only_below, config.workers) == (f"{tmp_path}/out/anna", f"{tmp_path}/", 1)
    assert words[1] == "jobs/render.py" and Path(job.runtime_env["working_dir"], words[1]).is_file()


def test_where_the_package_is_installed_nothing_is_uploaded(batches, server, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_jobs, "ABOVE", tmp_path)  # site-packages, or a home with secrets in it
    batches.submit(request(tmp_path), "anna")
    (job,) = server.jobs.values()
    assert shlex.split(job.entrypoint)[1:4] == ["-m", "capricious", "render"] and job.runtime_env == {}


def test_no_more_batches_are_taken_than_the_cluster_bears(batches, server, tmp_path, monkeypatch):
    ids = [batches.submit(request(tmp_path, f"out/{number}"), "anna", f"{number}").id for number in range(4)]
    for caller in ("anna", "ben"):
        assert reason(batches.submit, request(tmp_path, "out/4"), caller) == (429, "too-many-batches")
    assert batches.submit(request(tmp_path, "out/0"), "anna", "0").id == ids[0]  # asked again, it is no further one
    server.end(ids[0], 0)
    monkeypatch.setattr(batch_jobs, "_free_cpus", lambda: 0.0)
    assert reason(batches.submit, request(tmp_path, "out/4"), "anna") == (503, "no-cpus")
    monkeypatch.setattr(batch_jobs, "_free_cpus", lambda: 1.0)
    assert batches.submit(request(tmp_path, "out/4"), "anna").status == "running"


@pytest.mark.parametrize("out", ["out/anna", "out/anna/more", "out"])
def test_two_batches_never_write_to_one_output_at_the_same_time(batches, server, tmp_path, out):
    first = batches.submit(request(tmp_path), "anna", "key")
    for caller in ("anna", "ben"):
        assert reason(batches.submit, request(tmp_path, out), caller) == (409, "out-in-use")
    assert batches.submit(request(tmp_path), "anna", "key").id == first.id  # the same again is no second one
    assert batches.submit(request(tmp_path, "out/another"), "anna").id != first.id


def test_an_output_that_cannot_be_written_is_refused_at_once(batches, tmp_path):
    (tmp_path / "out").write_bytes(b"a file")
    assert reason(batches.submit, request(tmp_path), "anna") == (422, "out-not-writable")


@pytest.mark.parametrize("key", [None, "of a proxy's"])
def test_a_job_server_that_takes_no_jobs_yet_is_a_503_and_no_bug_of_ours(batches, server, key, tmp_path):
    def submit_job(**job):
        raise RuntimeError("Request failed with status code 500: No available agent to submit job, please try again")

    def away(*job):
        raise ConnectionError("Failed to connect to Ray at address")

    server.submit_job = submit_job
    assert reason(batches.submit, request(tmp_path), "anna", key) == (503, "no-job-server")
    server.list_jobs = server.get_job_info = away
    assert reason(batches.submit, request(tmp_path), "anna", key) == (503, "no-job-server")
    assert reason(batches.status, "render-1", "anna") == (503, "no-job-server")
