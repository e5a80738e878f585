"""Batches: collections, rendered by jobs/render.py as Ray jobs. The job server remembers them, not we.

Off unless the operator has listed where batches may read and write (serve.places).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
import shlex
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from capricious.cluster.ledger import Row, done_shards, read_rows
from capricious.cluster.plan import DONE_WITH_FAILURES, PLAN, Plan, read_plan
from capricious.cluster.publish import REPORT
from capricious.data import storage
from capricious.render.sweep import Sweep
from serve.arguments import PortraitArguments
from serve.owners import claim, owner_of
from serve.places import Prefix, check_place
from serve.problems import Problem
from serve.schemas import BatchBody, BatchRequest

log = logging.getLogger("ray.serve")

ABOVE = Path(__file__).resolve().parents[1]
"""The repository; or, where the package is installed, a folder that is none of ours."""

WRITABLE = ("", "s3")

LATER = {"Retry-After": "60"}

GOING_ON = (JobStatus.PENDING, JobStatus.RUNNING)


class Batches:
    """Submits, looks up and stops jobs. A caller sees its own batches only."""

    def __init__(self, arguments: PortraitArguments):
        self.arguments = arguments
        self._client: JobSubmissionClient | None = None

    def submit(self, asked: BatchRequest, caller: str, key: str | None = None) -> BatchBody:
        """Submits a batch; one that this caller has submitted with this key before is looked up.

        Raises:
            Problem: batches are off, a place is not allowed or another's, the key was used for something else, or the
                job server does not answer.
            ConfigError: the sweep cannot be.
        """
        client = self._jobs()
        self._check_places(asked)
        # Refused here rather than by the job, minutes later.
        Sweep.parse(asked.ages, asked.genders, asked.glasses, asked.smiles, asked.emotions)
        job = f"render-{secrets.token_hex(6) if key is None else _digest(caller, key)}"
        entrypoint = self._entrypoint(asked)
        if key is not None and (known := self._known(job)) is not None:
            if known.entrypoint != entrypoint:
                detail = "this Idempotency-Key was used for another batch; choose a new one"
                raise Problem(422, "key-used", detail, stage="batch")
            return self.status(job, caller)
        going_on = self._going_on()
        self._check_capacity(len(going_on))
        self._take(asked.out, caller, going_on)
        try:
            client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                runtime_env={"working_dir": str(ABOVE)} if _is_checkout() else {},
                metadata={"caller": caller, "source": asked.source, "out": asked.out},
            )
        except (ConnectionError, RuntimeError) as error:  # the head node's agent is not up yet, say
            raise self._no_server(error) from error
        return self.status(job, caller)

    def _check_places(self, asked: BatchRequest) -> None:
        for name, schemes in (("source", None), ("out", WRITABLE)):
            try:
                check_place(getattr(asked, name), self.arguments.prefixes, *([schemes] if schemes else []))
            except ValueError as error:
                raise Problem(422, "place-not-allowed", f"{name}: {error}", stage="batch") from None

    def _entrypoint(self, asked: BatchRequest) -> str:
        flags = {
            "--source": asked.source,
            "--out": asked.out,
            "--bundle": self.arguments.bundle,
            "--ages": asked.ages,
            "--genders": asked.genders,
            "--glasses": asked.glasses,
            "--smiles": asked.smiles,
            "--emotions": asked.emotions,
            "--limit": str(asked.limit),
            "--workers": str(self.arguments.batch_workers),
            "--only-below": ",".join(map(str, self.arguments.prefixes)),
        }
        program = ["jobs/render.py"] if _is_checkout() else ["-m", "capricious", "render"]
        # The interpreter of this replica has the packages; the one that PATH finds on the head node may not.
        return shlex.join([sys.executable, *program, *chain.from_iterable(flags.items())])

    def _check_capacity(self, count: int) -> None:
        """Refuses one more batch than `count` where it would be too many, or never begin."""
        if count >= (most := self.arguments.max_batches):
            detail = f"{count} batches are under way, allowed are {most}; try again when one of them has ended"
            raise Problem(429, "too-many-batches", detail, stage="batch", allowed=most, headers=LATER)
        if _free_cpus() < 1:
            detail = (
                "the service and what else runs have all CPUs of the cluster, so a batch would never begin; try again "
                "later, add CPUs, or give the service fewer replicas"
            )
            raise Problem(503, "no-cpus", detail, stage="batch", headers=LATER)

    def _take(self, out: str, caller: str, going_on: list[JobDetails]) -> None:
        """Sees to it that an output is written by one batch at a time, and all of them this caller's."""
        place = Prefix.parse(out)
        for job in going_on:
            theirs = Prefix.parse(job.metadata["out"])
            if theirs.holds(place) or place.holds(theirs):
                detail = f"a batch is writing to {out}; wait until it has ended, stop it, or choose another out"
                raise Problem(409, "out-in-use", detail, stage="batch")
        try:
            claim(out, caller, self.arguments.prefixes)
        except ValueError as error:
            raise Problem(409, "out-taken", str(error), stage="batch") from None
        except OSError as error:
            raise Problem(422, "out-not-writable", f"{out} cannot be written: {error}", stage="batch") from error

    def _going_on(self) -> list[JobDetails]:
        """Returns the batches of all callers that have not ended."""
        try:
            jobs = self._jobs().list_jobs()
        except (ConnectionError, RuntimeError) as error:
            raise self._no_server(error) from error
        ours = [job for job in jobs if {"caller", "out"} <= (job.metadata or {}).keys()]
        return [job for job in ours if job.status in GOING_ON]

    def status(self, batch: str, caller: str) -> BatchBody:
        """Returns how a batch is getting on.

        Raises:
            Problem: there is no such batch of this caller.
        """
        details = self._details(batch, caller)
        place = details.metadata
        plan = _plan(place["out"], caller)
        status, message = details.status.value.lower(), details.message or ""
        if details.driver_exit_code == DONE_WITH_FAILURES:  # what Ray calls failed
            status, message = "succeeded", "some pictures could not be rendered; the results say which, and why"
        return BatchBody(
            id=batch,
            status=status,
            message=message,
            source=place["source"],
            out=place["out"],
            pictures=plan and plan.pictures,
            done=sum(plan.size_of(shard) for shard in done_shards(plan)) if plan else 0,
            failed=_failed(plan) if plan and status == "succeeded" else None,
        )

    def results(self, batch: str, caller: str) -> Iterator[bytes]:
        """Returns the rows of the ledger so far as JSON lines, a shard at a time, read as they are sent."""
        plan = _plan(self._details(batch, caller).metadata["out"], caller)
        return (_lines(read_rows(plan.out, shard)) for shard in done_shards(plan)) if plan else iter(())

    def cancel(self, batch: str, caller: str) -> BatchBody:
        """Stops a batch, unless it has ended."""
        if self._details(batch, caller).status in GOING_ON:
            self._jobs().stop_job(batch)
        return self.status(batch, caller)

    def _details(self, batch: str, caller: str) -> JobDetails:
        details = self._known(batch)
        # Another's batch, or another kind of job, is as good as none: not even that it is there is told.
        if details is None or (details.metadata or {}).get("caller") != caller:
            raise Problem(404, "no-such-batch", f"there is no batch {batch[:60]!r}", stage="batch")
        return details

    def _known(self, batch: str) -> JobDetails | None:
        try:
            return self._jobs().get_job_info(batch)
        except RuntimeError:  # how the client says 404
            return None
        except ConnectionError as error:
            raise self._no_server(error) from error

    def _no_server(self, error: Exception) -> Problem:
        log.error("%s takes no job: %s", self.arguments.jobs_address, error)
        detail = "the cluster's job server takes no jobs at the moment; try again in a minute"
        return Problem(503, "no-job-server", detail, stage="batch")

    def _jobs(self) -> JobSubmissionClient:
        if not self.arguments.prefixes:
            detail = "batches are off here; the operator can allow places to read and write by batch_prefixes"
            raise Problem(403, "batches-off", detail, stage="batch")
        if self._client is None:
            try:
                self._client = JobSubmissionClient(self.arguments.jobs_address)
            except (ConnectionError, RuntimeError, AuthenticationError) as error:
                log.error("no job server at %s: %s", self.arguments.jobs_address, error)
                detail = f"the cluster's job server does not answer at {self.arguments.jobs_address}, or not to us"
                raise Problem(503, "no-job-server", detail, stage="batch") from error
        return self._client


def _is_checkout() -> bool:
    """Says whether the code has to travel with the job, because it is installed nowhere."""
    return (ABOVE / "platform" / "capricious").is_dir()


def _free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0) if ray.is_initialized() else math.inf


def _lines(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _digest(caller: str, key: str) -> str:
    """Names the batch of a caller's key; two callers may use the same."""
    return hashlib.sha256(json.dumps([caller, key]).encode()).hexdigest()[:12]


def _failed(plan: Plan) -> int:
    """Returns how many pictures of a finished batch failed, from its report."""
    return json.loads(storage.read(storage.join(plan.out, REPORT)))["failed"]


def _plan(out: str, caller: str) -> Plan | None:
    """Returns what the job has planned in a caller's own output; None before it has, and of another's."""
    there = owner_of(out) == caller and storage.exists(storage.join(out, PLAN))
    return read_plan(out) if there else None
