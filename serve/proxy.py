"""What stands in Ray's own HTTP proxy, before the ingresses: a request whose ingress dies is asked of another one.

Ray lets such a request fail without an answer, and uvicorn then says 500 in plain text. Ray's parts read in the
environment that they are started with that they want this (ASKS_AGAIN): `capricious serve` and `serve run` set it for
the Ray that they start (serve/app.py); a cluster's nodes want it exported before `ray start`.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.problems import unavailable

log = logging.getLogger("ray.serve")

ASKS_AGAIN = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy:middlewares"}

ATTEMPTS = 4
"""Of one request."""

PAUSE_S = 0.2
"""Before the second attempt, and twice as long before each further one."""

KEPT = 64 * 2**20
"""Bytes of a body that are kept to be sent again; a longer one goes once."""

HARMLESS = "/v1/renders", "/v1/sweeps", "/v1/annotations"
"""Ends of the paths of POST requests that change nothing, so that it does no harm to make them twice."""

RETRY_AFTER_S = 5


def middlewares() -> list[Middleware]:
    """For Ray, which calls this by name."""
    return [Middleware(AskAgain)]


class AskAgain:
    """Makes a request again that ended without an answer; if nothing comes of it, or it must not be, says so."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body, answered = _Body(receive), False

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            body.forget()
            await send(message)

        harmless = scope["method"] in ("GET", "HEAD") or scope["path"].endswith(HARMLESS)
        for attempt in range(ATTEMPTS):
            await self.app(dict(scope), body.reader(), watched)
            if answered or body.caller_has_gone:
                return
            if not harmless or not body.whole:
                break
            log.warning("%s %s: its ingress gave no answer", scope["method"], scope["path"])
            await asyncio.sleep(PAUSE_S * 2**attempt)
        problem = unavailable(
            "the part of the service that had this request stopped", RETRY_AFTER_S if harmless else None
        )
        await problem.response()(scope, receive, send)


class _Body:
    """A request's messages, kept as they come, so that they can be read again."""

    def __init__(self, receive: Receive):
        self._receive = receive
        self._kept: list[Message] | None = []
        self._bytes = 0
        self.caller_has_gone = False

    @property
    def whole(self) -> bool:
        """Whether all that has come is kept."""
        return self._kept is not None

    def forget(self) -> None:
        """Keeps nothing, now or later."""
        self._kept = None

    def reader(self) -> Receive:
        """Returns a `receive` that begins at the beginning."""
        number = 0

        async def receive() -> Message:
            nonlocal number
            number += 1
            if self._kept is not None and number <= len(self._kept):
                return self._kept[number - 1]
            message = await self._receive()
            self._keep(message)
            return message

        return receive

    def _keep(self, message: Message) -> None:
        self.caller_has_gone |= message["type"] == "http.disconnect"
        self._bytes += len(message.get("body", b""))
        if self._bytes > KEPT:
            self.forget()
        if self._kept is not None:
            self._kept.append(message)
