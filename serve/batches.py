"""The routes of batches, /v1/batches: what serve.batch_jobs does, over HTTP."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse

from serve.arguments import PortraitArguments
from serve.batch_jobs import Batches
from serve.schemas import BatchBody, BatchRequest

LINES: dict[str, Any] = {"content": {"application/x-ndjson": {}}, "description": "Rows of the ledger."}

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
    one_by_one = asyncio.Lock()  # so that each sees what the one before has started

    @router.post("", status_code=202, response_description="The batch; Location is its address.")
    async def submit(
        request: Request, response: Response, asked: BatchRequest, idempotency_key: IdempotencyKey = None
    ) -> BatchBody:
        """Starts rendering a collection on the cluster. The same request again resumes what an earlier one has left."""
        async with one_by_one:
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
