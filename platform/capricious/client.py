"""A client of the service (docs/service.md), for Python programs.

    with Client("http://127.0.0.1:8000") as service:
        Path("sheet.png").write_bytes(service.sweep("portrait.jpg", ages="20:80:10"))
        for variant in service.stream("portrait.jpg", ages="20:80:10"):
            Path(f"{variant.name}.webp").write_bytes(variant.images[0])

It needs httpx and nothing else of this package: no torch, no Ray.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import httpx

from capricious.errors import CapriciousError

Portrait = str | os.PathLike[str] | bytes
"""A picture: the path of its file, or the file's bytes."""


class ServiceProblem(CapriciousError):
    """The service did not do what it was asked for, and says why.

    Attributes:
        status: of HTTP; 0 where no answer came.
        stage: request, decode, detect, landmarks, parse, render, batch or server.
        reason: a stable code, e.g. "too-many-pixels".
        detail: one plain sentence.
        retry_after: seconds after which to try again, where the service says so.
        body: all that came, among it `found` and `allowed` where they can be told.
    """

    def __init__(self, status: int, body: dict[str, Any], retry_after: float | None = None):
        self.status = status
        self.stage = str(body.get("stage", "server"))
        self.reason = str(body.get("reason", "unknown"))
        self.detail = str(body.get("detail", "the service gives no reason"))
        self.retry_after = retry_after
        self.body = body
        super().__init__(f"{self.stage}: {self.reason}: {self.detail}")

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later: the service was busy, or what had it in hand died."""
        ours = "reason" in self.body
        return self.status in (0, 429, 503) or (self.status >= 500 and not ours)


@dataclass(frozen=True)
class StreamedVariant:
    """One variant of a sweep.

    Attributes:
        name: e.g. "age-30".
        changes: attribute → value.
        images: encoded pictures: the painting, or with composite="face" one for each face, largest first.
    """

    name: str
    changes: dict[str, Any]
    images: list[bytes]


class Client:
    """Speaks to one service; reuse it, it keeps its connection. All methods raise ServiceProblem.

    Args:
        url: of the service, with its prefix if it has one.
        token: for services that ask for one.
        timeout: seconds without a byte after which an answer is given up.
        patience: seconds during which what passes (`ServiceProblem.passes`) is asked again, at the times that the
            service names. What has begun to stream is not.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 180.0, patience: float = 60.0):
        self._patience = patience
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def bundle(self) -> dict[str, Any]:
        """Returns the model, what it can be asked for, and the service's limits."""
        return self._send("GET", "/v1/bundle").json()

    def annotate(self, portrait: Portrait) -> dict[str, Any]:
        """Returns the faces of a picture with outlines, landmarks, label maps and attributes."""
        return self._post("/v1/annotations", portrait, {}).json()

    def render(self, portrait: Portrait, **asked: Any) -> bytes:
        """Returns a picture in one variant.

        Args:
            asked: age, gender, glasses, smile, emotion, sitter_age, composite, face, picture_format.
        """
        return self._post("/v1/renders", portrait, asked).content

    def sweep(self, portrait: Portrait, format: Literal["sheet", "gif", "zip"] = "sheet", **asked: Any) -> bytes:
        """Returns a sweep as one file.

        Args:
            asked: ages, genders, glasses, smiles, emotions, sitter_age, composite, picture_format, preview.
        """
        return self._post("/v1/sweeps", portrait, {**asked, "format": format}).content

    def stream(self, portrait: Portrait, **asked: Any) -> Iterator[StreamedVariant]:
        """Yields the variants of a sweep as soon as each is rendered.

        Args:
            asked: as of sweep().
        """
        request = self._http.build_request(
            "POST", **self._request("/v1/sweeps", portrait, {**asked, "format": "ndjson"})
        )
        done = False
        for line in self._json_lines(request):
            if line["kind"] == "variant":
                images = [base64.b64decode(image) for image in line["images"]]
                yield StreamedVariant(line["name"], line["changes"], images)
            elif line["kind"] == "problem":
                raise ServiceProblem(line["problem"]["status"], line["problem"])
            done = line["kind"] == "done"
        if not done:
            raise ServiceProblem(0, {"reason": "incomplete", "detail": "the sweep ended before it was complete"})

    def submit_batch(self, source: str, out: str, **asked: Any) -> dict[str, Any]:
        """Starts rendering a collection on the cluster; returns the batch with its id.

        Args:
            source: the collection.
            out: where results go.
            asked: ages, genders, glasses, smiles, emotions, limit.
        """
        body = {"source": source, "out": out, **asked}
        key = {"Idempotency-Key": secrets.token_hex(16)}  # asked twice, it is one batch all the same
        request = self._http.build_request("POST", "/v1/batches", json=body, headers=key)
        return self._patiently(lambda: self._answer(request)).json()

    def batch(self, id: str) -> dict[str, Any]:
        """Returns how a batch is getting on."""
        return self._send("GET", f"/v1/batches/{id}").json()

    def batch_results(self, id: str) -> Iterator[dict[str, Any]]:
        """Yields the ledger of a batch so far, a row for each file, as it arrives: there may be millions."""
        return self._json_lines(self._http.build_request("GET", f"/v1/batches/{id}/results"))

    def cancel_batch(self, id: str) -> dict[str, Any]:
        """Stops a batch; what is rendered stays."""
        return self._send("DELETE", f"/v1/batches/{id}").json()

    @staticmethod
    def _request(path: str, portrait: Portrait, asked: dict[str, Any]) -> dict[str, Any]:
        if isinstance(portrait, bytes):
            name, content = "portrait", portrait
        else:
            name, content = Path(portrait).name, Path(portrait).read_bytes()
        fields = {key: str(value) for key, value in asked.items() if value is not None}
        return {"url": path, "files": {"file": (name, content)}, "data": fields}

    def _post(self, path: str, portrait: Portrait, asked: dict[str, Any]) -> httpx.Response:
        request = self._http.build_request("POST", **self._request(path, portrait, asked))
        return self._patiently(lambda: self._answer(request))

    def _send(self, method: str, url: str) -> httpx.Response:
        request = self._http.build_request(method, url)
        return self._patiently(lambda: self._answer(request))

    def _json_lines(self, request: httpx.Request) -> Iterator[dict[str, Any]]:
        try:
            with closing(self._patiently(lambda: self._answer(request, stream=True))) as response:
                yield from map(json.loads, _lines(response.iter_bytes()))
        except httpx.TransportError as error:
            raise _no_answer(error) from error

    def _patiently(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        until = time.monotonic() + self._patience
        while True:
            try:
                return ask()
            except ServiceProblem as problem:
                wait = problem.retry_after or 1.0
                if not problem.passes or time.monotonic() + wait > until:
                    raise
                time.sleep(wait)

    def _answer(self, request: httpx.Request, stream: bool = False) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
            if response.is_error:
                response.read()
                response.close()
                raise _problem(response)
        except httpx.TransportError as error:
            raise _no_answer(error) from error
        return response


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cuts at line feeds alone: to str.splitlines() and httpx a U+0085 in a file's name ends a line, too."""
    parts: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        parts.append(first)
        for start in others:
            yield b"".join(parts)
            parts = [start]
    if last := b"".join(parts):
        yield last


def _problem(response: httpx.Response) -> ServiceProblem:
    wait = response.headers.get("retry-after", "")
    try:
        body = response.json()
    except ValueError:  # a proxy on the way, not the service
        body = {"detail": response.text[:200] or response.reason_phrase}
    return ServiceProblem(response.status_code, body, float(wait) if wait.isdecimal() else None)


def _no_answer(error: httpx.TransportError) -> ServiceProblem:
    return ServiceProblem(0, {"reason": "no-answer", "detail": str(error) or type(error).__name__})
