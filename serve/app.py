"""The service: one picture in, one sweep out.

    serve run serve.app:portrait bundle=PATH

from the root of the repository (Ray Serve's command line; `serve.app` is this file). README.md has the requests.
"""

# No `from __future__ import annotations`: Ray Serve reads the type of portrait()'s arguments from its signature,
# and with it would find a string and pass a plain dict.

import asyncio
import base64
import hashlib
import logging
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Annotated, Any, Literal

# A worker that got the repository as its working directory has the library beside this folder, not installed.
sys.path.append(str(Path(__file__).resolve().parent.parent / "platform"))

from fastapi import FastAPI, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve.config import BackpressureConfig
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.errors import ConfigError, Rejection
from capricious.faces.attributes import Attributes
from capricious.model.bundle import load_bundle
from capricious.render.picture import SweepResult, render_picture
from capricious.render.provenance import known
from capricious.render.renderer import Renderer
from capricious.render.scan import read_scan
from capricious.render.sweep import SOURCE, Sweep

log = logging.getLogger("ray.serve")

WEB = Path(__file__).resolve().parent / "web"

ENVELOPE = 64 * 1024
"""Bytes that a multipart body may have besides the file."""

SECURITY_HEADERS = {
    # The page is one file; nothing is loaded from or sent to anywhere else.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class PortraitArguments(BaseModel):
    """What `serve run serve.app:portrait key=value …` takes.

    Attributes:
        bundle: folder of the model bundle, readable by every replica.
        replicas: copies of the model; each renders one picture at a time.
        threads: CPU cores of a replica.
        device: "cpu" or "cuda" (one GPU per replica).
        max_upload_mb: larger uploads are refused while they arrive.
        max_megapixels: larger pictures are refused before they are decoded.
        max_faces: faces rendered per picture, largest first; 0 for all.
        detector, landmarks: backends, as in AnnotatorConfig.
    """

    model_config = ConfigDict(extra="forbid")

    bundle: str
    replicas: int = Field(1, ge=1)
    threads: int = Field(2, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"
    max_upload_mb: int = Field(32, ge=1)
    max_megapixels: int = Field(64, ge=1)
    max_faces: int = Field(8, ge=0)
    detector: str = "auto"
    landmarks: str = "auto"


class SweepRequest(BaseModel):
    """Parameters of POST /v1/sweep, in the query or as form fields beside the file.

    Attributes:
        ages: "20:80:10" or "20,35,70"; default: 10 to 80 by 10.
        gender: of "female,male"; default: the sitter's own.
        glasses: of "none,reading,sun"; default: the sitter's own.
        age: the sitter's true age, if known; else it is estimated.
        format: what comes back: contact sheet (PNG), animation (GIF), JSON with every face as WebP, or
            a ZIP of whole pictures in full resolution (PNG).
        preview: with json, also the whole picture per variant, its longer side at most so many pixels.
    """

    model_config = ConfigDict(extra="forbid")

    ages: str | None = Field(None, max_length=400)
    gender: str = Field("", max_length=100)
    glasses: str = Field("", max_length=100)
    age: float | None = Field(None, ge=0, le=120)
    format: Literal["sheet", "gif", "json", "zip"] = "sheet"
    preview: int = Field(0, ge=0, le=2048)


class Pipeline:
    """bytes → annotated faces → sweep; all that a replica keeps in memory. Not thread-safe."""

    def __init__(self, arguments: PortraitArguments):
        bundle = load_bundle(arguments.bundle)
        self.info = {**bundle.info, "sha256": bundle.sha256}
        self.max_pixels = arguments.max_megapixels * 1_000_000
        self.renderer = Renderer(bundle, arguments.device, threads=arguments.threads)
        self.annotator = Annotator(
            AnnotatorConfig(
                resolution=self.renderer.resolution,
                max_faces=arguments.max_faces,
                detector=arguments.detector,
                landmarks=arguments.landmarks,
                device=arguments.device,
                threads=arguments.threads,
            )
        )

    def sweep(self, data: bytes, name: str, sweep: Sweep, labels: Attributes) -> SweepResult:
        """Raises Rejection if `data` is not a picture or shows no usable face."""
        scan = read_scan(data, name=name, max_pixels=self.max_pixels)
        faces = self.annotator.annotate(scan.srgb, labels)
        return render_picture(scan, faces, self.renderer, sweep, source_sha256=hashlib.sha256(data).hexdigest())


class UploadLimit:
    """ASGI middleware: refuses a body that is too long as soon as that is known, not after reading it all."""

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            return await self.refusal()(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, self.detail)
            return message

        await self.app(scope, counted, send)

    @property
    def detail(self) -> str:
        megabytes = (self.max_bytes - ENVELOPE) / 2**20
        return f"the upload is larger than {megabytes:g} MB; send a smaller file (scale it down or save it as JPEG)"

    def refusal(self) -> Response:
        return _problem(413, "request", "too-large", self.detail)


def portrait(arguments: PortraitArguments) -> serve.Application:
    """Builds the Ray Serve application."""
    if (bundle := Path(arguments.bundle)).exists():
        # Replicas have another working directory.
        arguments = arguments.model_copy(update={"bundle": str(bundle.resolve())})

    def build() -> FastAPI:  # in the replica: models are loaded where they are used
        return application(arguments)

    deployment = serve.deployment(
        name="portrait",
        num_replicas=arguments.replicas,
        # One picture is rendered at a time; the others of these upload, download, or wait their turn in memory.
        max_ongoing_requests=8,
        # Beyond that a caller learns at once to come back later.
        max_queued_requests=32,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=5),
        ray_actor_options={"num_cpus": arguments.threads, "num_gpus": int(arguments.device == "cuda")},
    )
    return deployment(serve.ingress(build)()).bind()


def application(arguments: PortraitArguments) -> FastAPI:
    """Builds the HTTP application of one replica; it needs no Ray.

    Raises:
        CapriciousError: the bundle or a weight is missing or broken.
    """
    pipeline = Pipeline(arguments)
    # One thread: the pipeline is not thread-safe, and two sweeps at once would only share the same cores.
    worker = ThreadPoolExecutor(1, "pipeline")
    page = (WEB / "index.html").read_text(encoding="utf-8")
    # FastAPI's own documentation pages load scripts from a content delivery network: off. /openapi.json stays.
    app = FastAPI(title="Capricious Portraits", version=pipeline.info["code_version"], docs_url=None, redoc_url=None)
    app.add_middleware(UploadLimit, max_bytes=arguments.max_upload_mb * 2**20 + ENVELOPE)
    _answer_errors(app)

    @app.get("/", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=SECURITY_HEADERS)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/bundle")
    async def bundle() -> dict[str, Any]:
        """What the model is: the bundle's bundle.json and its sha256."""
        return pipeline.info

    @app.post("/v1/sweep", response_class=Response)
    async def sweep(request: Request, file: UploadFile, query: Annotated[SweepRequest, Query()]) -> Response:
        """Re-renders the faces of a picture at other ages. Fields may also be sent in the form."""
        asked = await _merged(request, query)
        ages = Sweep.parse(asked.ages, asked.gender, asked.glasses)
        labels = Attributes(age=asked.age)
        data = await file.read()
        name = Path(file.filename or "upload").name

        def work() -> Response:
            return RESPONSES[asked.format](pipeline.sweep(data, name, ages, labels), asked)

        return await asyncio.get_running_loop().run_in_executor(worker, work)

    return app


async def _merged(request: Request, query: SweepRequest) -> SweepRequest:
    """Adds the form fields to those of the query; a form field wins."""
    fields = {key: value for key, value in (await request.form()).items() if key != "file"}
    if not fields:
        return query
    try:
        return SweepRequest.model_validate({**query.model_dump(exclude_unset=True), **fields})
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _sheet(result: SweepResult, asked: SweepRequest) -> Response:
    return Response(result.sheet(), media_type="image/png", headers=_named("sweep.png"))


def _gif(result: SweepResult, asked: SweepRequest) -> Response:
    return Response(result.animation(), media_type="image/gif", headers=_named("sweep.gif"))


def _json(result: SweepResult, asked: SweepRequest) -> Response:
    variants = result.sweep.variants()
    small = result.preview(asked.preview) if asked.preview else None
    faces = [
        {
            "quad": face.quad.tolist(),
            "attributes": known(face.attributes),
            "attribute_source": face.attribute_source,
            "detection_score": float(face.detection_score),
            "images": {v.name: _base64(result.crop_file(number, v.name)) for v in variants},
        }
        for number, face in enumerate(result.faces)
    ]
    height, width = result.picture.shape[:2]
    content: dict[str, Any] = {
        "source_sha256": result.source_sha256,
        "bundle_sha256": result.bundle_sha256,
        "width": width,
        "height": height,
        "media_type": "image/webp",
        "variants": [{"name": v.name, "changes": v.changes} for v in variants],
        "faces": faces,
    }
    if small is not None:
        content["previews"] = {v.name: _base64(small.file(v.name, "webp", 90)) for v in variants}
    return JSONResponse(content)


def _zip(result: SweepResult, asked: SweepRequest) -> Response:
    # On disk, not in memory: eight paintings of 60 megapixels are a gigabyte.
    spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the last chunk is sent)
    with zipfile.ZipFile(spool, "w", zipfile.ZIP_STORED) as archive:
        for variant in result.sweep.variants():
            if variant.name != SOURCE:
                # ZipInfo's default date is fixed (1980), so the same sweep gives the same bytes.
                archive.writestr(zipfile.ZipInfo(f"{variant.name}.png"), result.file(variant.name, "png"))
    size = spool.tell()
    spool.seek(0)
    headers = {**_named("sweep.zip"), "Content-Length": str(size)}
    return StreamingResponse(_chunks(spool), media_type="application/zip", headers=headers)


RESPONSES: dict[str, Callable[[SweepResult, SweepRequest], Response]] = {
    "sheet": _sheet,
    "gif": _gif,
    "json": _json,
    "zip": _zip,
}


def _chunks(spool: IO[bytes]) -> Iterator[bytes]:
    with spool:
        while chunk := spool.read(1 << 20):
            yield chunk


def _named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'inline; filename="{name}"'}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _problem(status: int, stage: str, reason: str, detail: str) -> JSONResponse:
    return JSONResponse({"stage": stage, "reason": reason, "detail": detail}, status)


def _answer_errors(app: FastAPI) -> None:
    """Every error is the same small JSON object; tracebacks go to the log only."""

    @app.exception_handler(Rejection)
    async def rejected(request: Request, error: Rejection) -> JSONResponse:
        status = 415 if error.reason == "unsupported-format" else 422
        return _problem(status, error.stage, error.reason, error.detail)

    @app.exception_handler(ConfigError)
    async def not_a_sweep(request: Request, error: ConfigError) -> JSONResponse:
        return _problem(422, "request", "bad-sweep", str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        kind = request.headers.get("content-type", "none")
        if request.method == "POST" and not kind.startswith("multipart/form-data"):
            return _problem(
                415, "request", "unsupported-body", f'send multipart/form-data with a field "file", found: {kind}'
            )
        detail = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return _problem(422, "request", "bad-parameter", detail)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        reason = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}.get(error.status_code, "bad-request")
        return _problem(error.status_code, "request", reason, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _problem(500, "server", "internal-error", "something failed here; the reason is in the server's log")
