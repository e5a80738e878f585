"""Every error is one small JSON object, application/problem+json (RFC 9457); tracebacks go to the log only."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from capricious.errors import ConfigError, Rejection
from serve import metrics

log = logging.getLogger("ray.serve")

MEDIA_TYPE = "application/problem+json"


class ProblemBody(BaseModel):
    """What a client gets instead of what it asked for (RFC 9457)."""

    type: str = Field(examples=["urn:capricious:problem:too-many-pixels"])
    title: str = Field(examples=["Too many pixels"])
    status: int = Field(examples=[422])
    detail: str = Field(
        description="One plain sentence with the remedy, where there is one.",
        examples=["scan.tif has 120 megapixels; at most 64 are allowed; scale it down"],
    )
    stage: str = Field(
        description="request, decode, detect, landmarks, parse, render, batch or server", examples=["decode"]
    )
    reason: str = Field(description="A stable code to tell errors apart by.", examples=["too-many-pixels"])
    found: Any = Field(None, description="What was found, where that is one value.")
    allowed: Any = Field(None, description="What is allowed, likewise.")


class Problem(HTTPException):
    """An error that is meant for the client.

    Args:
        status: of HTTP.
        reason: a stable, kebab-case code.
        detail: one plain sentence.
        stage: where it came up.
        found, allowed: JSON values, where they can be told.
        headers: more of them for the response.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        stage: str = "request",
        found: Any = None,
        allowed: Any = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(status, detail, headers)
        self.reason = reason
        self.body = {
            "type": f"urn:capricious:problem:{reason}",
            "title": reason.replace("-", " ").capitalize(),
            "status": status,
            "detail": detail,
            "stage": stage,
            "reason": reason,
        }
        facts = {"found": found, "allowed": allowed}
        self.body |= {name: value for name, value in facts.items() if value is not None}

    def response(self) -> JSONResponse:
        """Returns the problem as a response, and counts it."""
        metrics.rejected(self.reason)
        return JSONResponse(self.body, self.status_code, self.headers, MEDIA_TYPE)


def overloaded(retry_after_s: int) -> Problem:
    """Returns what a caller gets whom nobody has time for."""
    detail = f"the service has more requests than it can take on; try again in {retry_after_s} s"
    return Problem(429, "overloaded", detail, headers={"Retry-After": str(retry_after_s)})


def shutting_down(retry_after_s: int) -> Problem:
    """Returns what a caller gets who comes while the last ones are served."""
    detail = f"the service is shutting down; if it is being replaced, try again in {retry_after_s} s"
    return Problem(503, "shutting-down", detail, stage="server", headers={"Retry-After": str(retry_after_s)})


def unavailable(what: str, retry_after_s: int | None) -> Problem:
    """Returns what a caller gets whom a dead part of the service left without an answer.

    Args:
        what: what happened, without a full stop.
        retry_after_s: None where it might do harm to ask again.
    """
    if retry_after_s is None:
        detail = f"{what}; it may have been carried out all the same: look before you ask again"
        return Problem(503, "unavailable", detail, stage="server")
    detail, headers = f"{what}; try again in {retry_after_s} s", {"Retry-After": str(retry_after_s)}
    return Problem(503, "unavailable", detail, stage="server", headers=headers)


def problem_of(error: Exception) -> Problem:
    """Returns any error as a problem."""
    match error:
        case Problem():
            return error
        case Rejection():
            status = 415 if error.reason == "unsupported-format" else 422
            return Problem(status, error.reason, error.detail, stage=error.stage)
        case ConfigError():
            return Problem(422, "bad-sweep", str(error))
        case TimeoutError():
            detail = "the request took longer than is allowed; ask for fewer variants or a smaller picture"
            return Problem(504, "timeout", detail, stage="render")
        case HTTPException():
            reason = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
            return Problem(error.status_code, reason, str(error.detail), headers=dict(error.headers or {}))
    log.error("a request failed", exc_info=error)
    return Problem(500, "internal-error", "something failed here; the reason is in the server's log", stage="server")


def answer_problems(app: FastAPI) -> None:
    """Makes every error of an application a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_of(error).response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _invalid(request, error).response()

    for kind in (Rejection, ConfigError, TimeoutError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, invalid)


def _invalid(request: Request, error: RequestValidationError) -> Problem:
    found = request.headers.get("content-type", "none")
    expected = "application/json" if request.url.path.endswith("/batches") else "multipart/form-data"
    if request.method == "POST" and not found.lower().startswith(expected):
        return Problem(415, "unsupported-body", f"send {expected}, found: {found}", found=found, allowed=expected)
    places = [(".".join(map(str, e["loc"][1:])) or "body", e["msg"]) for e in error.errors()]
    return Problem(422, "bad-parameter", "; ".join(f"{place}: {message}" for place, message in places))
