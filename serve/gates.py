"""What a request must pass before anybody works on it: a token, a rate, a size, a speed.

All of them are ASGI middleware, so that a body that must not come in is not read first.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import os
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capricious.errors import ConfigError
from serve import metrics
from serve.problems import Problem, overloaded, shutting_down

TOKENS = "CAPRICIOUS_TOKENS"
"""Environment variable: name:token,name:token,… The name says in metrics and batches who it was."""

ENVELOPE = 64 * 1024
"""Bytes that a multipart body may have besides the file."""

CALLERS = 10_000
"""Callers whose rate is remembered."""

PROTECTED = "/v1/"
"""Below this path a token is needed. The page, its manual and health checks are for all."""

READY = "/readyz"

HEADERS = {
    # The pages are single files; nothing is loaded from or sent to anywhere else.
    b"content-security-policy": b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


def tokens_from_environment() -> dict[str, str]:
    """Reads CAPRICIOUS_TOKENS as sha256 of token → name of its holder; the tokens themselves travel nowhere.

    Raises:
        ConfigError: an entry is not name:token, or a token has fewer than 16 characters.
    """
    tokens = {}
    for number, entry in enumerate(filter(None, os.environ.get(TOKENS, "").split(",")), start=1):
        name, found, token = entry.strip().partition(":")
        if not (name and found and len(token) >= 16):
            raise ConfigError(f"{TOKENS} must read name:token,… with tokens of 16 characters or more; entry {number}")
        tokens[_digest(token)] = name
    return tokens


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Rate:
    """A bucket of tokens for each caller (the classic token bucket): `burst` at once, then so many a minute."""

    def __init__(self, per_minute: float, burst: int):
        self.per_second = per_minute / 60
        self.burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str, now: float) -> float:
        """Takes one request of a caller. Returns 0, or the seconds after which it may try again."""
        if self.per_second == 0:
            return 0.0
        level, then = self._buckets.pop(caller, (float(self.burst), now))
        level = min(self.burst, level + (now - then) * self.per_second)
        allowed = level >= 1
        self._buckets[caller] = (level - allowed, now)
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - level) / self.per_second


class CallerGate:
    """Lets in who has a token, at its rate; puts the caller's name into the request's state.

    Args:
        tokens: as tokens_from_environment() gives them; empty lets everybody in, at a rate for each address.
    """

    def __init__(self, app: ASGIApp, tokens: dict[str, str], rate: Rate):
        self.app = app
        self.tokens = tokens
        self.rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or not path.startswith(PROTECTED):
            return await self.app(scope, receive, send)
        caller = self._caller(scope)
        if caller is None:
            detail = "this service needs a token; send it as Authorization: Bearer TOKEN"
            problem = Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
            return await problem.response()(scope, receive, send)
        if wait := self.rate.wait(caller, time.monotonic()):
            seconds = math.ceil(wait)
            allowed = f"{60 * self.rate.per_second:g} requests a minute"
            detail = f"allowed are {allowed}; try again in {seconds} s"
            problem = Problem(429, "rate-limit", detail, allowed=allowed, headers={"Retry-After": str(seconds)})
            return await problem.response()(scope, receive, send)
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> str | None:
        if not self.tokens:
            return (scope.get("client") or ("unknown",))[0]
        kind, _, token = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1").partition(" ")
        given = _digest(token.strip().encode("latin-1").decode("utf-8", "surrogateescape"))
        found = None
        for digest, name in self.tokens.items():  # all of them, however early one fits: no clock tells which
            if hmac.compare_digest(digest, given) and kind.lower() == "bearer":
                found = name
        return found


class UploadGate:
    """Refuses a body that is too long as soon as that is known, and one that takes too long to come."""

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float):
        self.app = app
        self.max_bytes = max_bytes + ENVELOPE
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            return await self._too_large().response()(scope, receive, send)
        received, complete = 0, False
        deadline = time.monotonic() + self.seconds

        async def counted() -> Message:
            nonlocal received, complete
            if complete:  # what comes now is the end of the connection, whenever that may be
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except TimeoutError:
                detail = f"the upload took longer than {self.seconds:g} s; send a smaller file"
                raise Problem(408, "slow-upload", detail, allowed=self.seconds) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> Problem:
        megabytes = (self.max_bytes - ENVELOPE) / 2**20
        detail = f"the upload is larger than {megabytes:g} MB; send a smaller file (scale it down or save it as JPEG)"
        return Problem(413, "too-large", detail, allowed=f"{megabytes:g} MB")


@dataclass
class Admission:
    """How many requests an ingress has in hand, how many it may have, and whether it takes any more."""

    most: int
    ongoing: int = 0
    closed: bool = False

    async def close(self) -> None:
        """Takes no more; returns when all are answered."""
        self.closed = True
        while self.ongoing:
            await asyncio.sleep(0.05)


class DoorGate:
    """Lets in as many requests at once as may be, times them, and puts security headers on every answer.

    Health checks always get in; but where the door is closed, nobody is ready.
    """

    def __init__(self, app: ASGIApp, admission: Admission, retry_after_s: int):
        self.app = app
        self.admission = admission
        self.retry_after_s = retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 499  # as nginx counts callers that left before there was an answer

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in HEADERS.items() if name not in present),
                ]
            await send(message)

        started = time.perf_counter()
        admission = self.admission
        admission.ongoing += 1
        metrics.requests_in_hand(admission.ongoing)
        try:
            path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
            if admission.closed and path.startswith((PROTECTED, READY)):
                return await shutting_down(self.retry_after_s).response()(scope, receive, watched)
            if admission.ongoing > admission.most and path.startswith(PROTECTED):
                return await overloaded(self.retry_after_s).response()(scope, receive, watched)
            await self.app(scope, receive, watched)
        finally:
            admission.ongoing -= 1
            metrics.requests_in_hand(admission.ongoing)
            # The route's own text, not the path, which callers make up.
            route = getattr(scope.get("route"), "path", "none")
            metrics.request(route, status, time.perf_counter() - started)
