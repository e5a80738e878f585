"""POST /v1/batches: collections, rendered by jobs/render.py as a Ray job. The job server remembers them, not we.

Off unless the operator has listed where batches may read and write (serve.places).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import shlex
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from capricious.cluster.ledger import done_shards, portraits
from capricious.cluster.plan import PLAN, Plan, read_plan
from capricious.data import storage
from capricious.render.sweep import Sweep
from serve.arguments import PortraitArguments
from serve.places import check_place
from serve.problems import Problem
from serve.schemas import BatchBody, BatchRequest

log = logging.getLogger("ray.serve")

ROOT = Path(__file__).resolve().parents[1]
"""The repository: what the job gets as its working directory."""

LINES: dict[str, Any] = {"content": {"application/x-ndjson": {}}, "description": "Rows of the ledger."}

WRITABLE = ("", "s3")

IdempotencyKey = Annotated[
    str | None,
    Header(
        max_length=200,
        description="Any text of your own, such as a UUID. The same request with the same key is one batch, however "
        "often it arrives: send it again where an answer was lost.",
    ),
]

BatchId = Annotated[str, PathParameter(description="As POST has told it.", examples=["render-1f0c2b9d4e6a"])]


def batches_router(arguments: PortraitArguments) -> APIRouter:
    """Returns the routes."""
    router = APIRouter(prefix="/batches", tags=["batches"])
    batches = Batches(arguments)

    @router.post("", status_code=202, response_description="The batch; Location is its address.")
    async def submit(
        request: Request, response: Response, asked: BatchRequest, idempotency_key: IdempotencyKey = None
    ) -> BatchBody:
        """Starts rendering a collection on the cluster. The same request again resumes what an earlier one has left."""
        body = await asyncio.to_thread(batches.submit, asked, request.state.caller, idempotency_key)
        response.headers["Location"] = str(request.url_for("status", batch=body.id).path)
        return body

    @router.get("/{batch}", response_description="The batch.")
    async def status(request: Request, batch: BatchId) -> BatchBody:
        """How a batch is getting on, from its job and its ledger."""
        return await asyncio.to_thread(batches.status, batch, request.state.caller)

    @router.get("/{batch}/results", response_class=StreamingResponse, responses={200: LINES})
    async def results(request: Request, batch: BatchId) -> StreamingResponse:
        """The ledger so far, as JSON lines: a row for each file, with its sha256 or why it is missing."""
        rows = await asyncio.to_thread(batches.results, batch, request.state.caller)
        return StreamingResponse(rows, media_type="application/x-ndjson")

    @router.delete("/{batch}", status_code=202, response_description="The batch, about to stop.")
    async def cancel(request: Request, batch: BatchId) -> BatchBody:
        """Stops a batch. What is rendered stays."""
        return await asyncio.to_thread(batches.cancel, batch, request.state.caller)

    return router


class Batches:
    """Submits, looks up and stops jobs. A caller sees its own batches only."""

    def __init__(self, arguments: PortraitArguments):
        self.arguments = arguments
        self._client: JobSubmissionClient | None = None

    def submit(self, asked: BatchRequest, caller: str, key: str | None = None) -> BatchBody:
        """Submits a batch; one that this caller has submitted with this key before is looked up.

        Raises:
            Problem: batches are off, a place is not allowed, the key was used for something else, or the job server
                does not answer.
            ConfigError: the sweep cannot be.
        """
        client = self._jobs()
        for name, schemes in (("source", None), ("out", WRITABLE)):
            try:
                text = getattr(asked, name)
                check_place(text, self.arguments.prefixes, *([schemes] if schemes else []))
            except ValueError as error:
                raise Problem(422, "place-not-allowed", f"{name}: {error}", stage="batch") from None
        # Refused here rather than by the job, minutes later.
        Sweep.parse(asked.ages, asked.genders, asked.glasses, asked.smiles, asked.emotions)
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
        }
        # The interpreter of this replica has the packages; the one that PATH finds on the head node may not.
        command = [sys.executable, "jobs/render.py", *(word for flag, value in flags.items() for word in (flag, value))]
        job = f"render-{secrets.token_hex(6) if key is None else _digest(caller, key)}"
        entrypoint = shlex.join(command)
        try:
            client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                runtime_env={"working_dir": str(ROOT)},
                metadata={"caller": caller, "source": asked.source, "out": asked.out},
            )
        except (ConnectionError, RuntimeError) as error:  # the job is there, or the head node's agent not up yet
            known = None if key is None else self._known(job)
            if known is None:
                raise self._no_server(error) from error
            if known.entrypoint != entrypoint:
                detail = "this Idempotency-Key was used for another batch; choose a new one"
                raise Problem(422, "key-used", detail, stage="batch") from error
        return self.status(job, caller)

    def status(self, batch: str, caller: str) -> BatchBody:
        """Returns how a batch is getting on.

        Raises:
            Problem: there is no such batch of this caller.
        """
        details = self._details(batch, caller)
        place = details.metadata
        plan = _plan(place["out"])
        return BatchBody(
            id=batch,
            status=details.status.value.lower(),
            message=details.message or "",
            source=place["source"],
            out=place["out"],
            pictures=plan and plan.pictures,
            done=sum(plan.size_of(shard) for shard in done_shards(plan)) if plan else 0,
        )

    def results(self, batch: str, caller: str) -> Iterator[bytes]:
        """Returns the rows of the ledger so far as JSON lines; they are read while they are sent."""
        plan = _plan(self._details(batch, caller).metadata["out"])
        rows = chain.from_iterable(portraits(plan.out, done_shards(plan))) if plan else iter(())
        return (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)

    def cancel(self, batch: str, caller: str) -> BatchBody:
        """Stops a batch, unless it has ended."""
        if self._details(batch, caller).status in (JobStatus.PENDING, JobStatus.RUNNING):
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


def _digest(caller: str, key: str) -> str:
    """Names the batch of a caller's key; two callers may use the same."""
    return hashlib.sha256(json.dumps([caller, key]).encode()).hexdigest()[:12]


def _plan(out: str) -> Plan | None:
    """Returns what the job has planned, None before it has."""
    return read_plan(out) if storage.exists(storage.join(out, PLAN)) else None
