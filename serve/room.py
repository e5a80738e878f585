"""Memory for decoded pictures. A picture of one colour is a small upload, and two hundred megabytes when decoded; what
limits requests does not limit these.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.problems import overloaded


class Room:
    """How many pixels the pictures that an ingress holds decoded may have together.

    Args:
        most: pixels; as many as the largest picture has, at least.
        retry_after_s: what a caller is told for whom there is none left.
    """

    def __init__(self, most: int, retry_after_s: int):
        self.most = most
        self.retry_after_s = retry_after_s
        self.taken = 0


class Share:
    """What one request has of the room."""

    def __init__(self, room: Room):
        self._room = room
        self.pixels = 0

    def take(self, pixels: int) -> None:
        """Takes room for a picture before it is decoded.

        Raises:
            Problem: 429, there is not enough left.
        """
        if self._room.taken + pixels > self._room.most:
            raise overloaded(self._room.retry_after_s)
        self._room.taken += pixels
        self.pixels += pixels

    def give_back(self) -> None:
        """Gives all of it back."""
        self._room.taken -= self.pixels
        self.pixels = 0


class RoomGate:
    """Puts a share of the room into each request's state, and gives it back when the answer is sent or broken off."""

    def __init__(self, app: ASGIApp, room: Room):
        self.app = app
        self.room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        share = Share(self.room)
        scope.setdefault("state", {})["room"] = share
        try:
            await self.app(scope, receive, send)
        finally:
            share.give_back()
