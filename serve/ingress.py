"""The HTTP application: its routes, what stands before them, and its pages. docs/service.md explains the API."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import APIRouter, FastAPI, Form, Request, Response, Security, UploadFile
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.security import HTTPBearer

import capricious
from capricious.data.records import Face
from capricious.faces.attributes import EMOTIONS, GLASSES, MAX_AGE
from capricious.faces.image import QUICK, encode
from capricious.faces.label_map import CLASSES
from capricious.render.picture import SweepResult
from capricious.render.provenance import known
from capricious.render.samples import samples
from capricious.render.sweep import GENDERS
from serve import metrics, sweeps
from serve.arguments import PortraitArguments
from serve.batches import batches_router
from serve.caching import SizedCache
from serve.gates import READY, Admission, CallerGate, DoorGate, Rate, UploadGate
from serve.pipeline import Annotated as AnnotatedPicture
from serve.pipeline import Pipeline
from serve.problems import MEDIA_TYPE, Problem, ProblemBody, answer_problems
from serve.room import Room, RoomGate
from serve.schemas import (
    MEDIA_TYPES,
    AnnotationBody,
    BundleBody,
    Composite,
    FaceBody,
    LimitsBody,
    RenderRequest,
    SweepRequest,
    Upload,
)

WEB = Path(__file__).resolve().parent / "web"

CHUNK = 1 << 20

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
    }
    for status, description in {
        400: "The body cannot be read.",
        401: "A token is needed.",
        403: "Batches are off.",
        404: "No such batch.",
        408: "The upload took too long.",
        409: "The output of the batch is in use, or somebody else's.",
        413: "The upload is too large.",
        415: "Not a picture format, or not the right kind of body.",
        422: "No usable face, a picture that cannot be read, or a parameter out of its range.",
        429: "Too many requests; Retry-After says when to come back.",
        500: "A fault of the service.",
        503: "The model does not answer.",
        504: "It took longer than is allowed.",
    }.items()
}


def binary(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """Describes a 200 that is one of some kinds of file."""
    schema = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    return {200: {"description": "The file.", "content": {name: schema for name in media_types}}}


def application(
    arguments: PortraitArguments, pipeline: Pipeline, tokens: dict[str, str], admission: Admission
) -> FastAPI:
    """Builds the HTTP application of one ingress. It needs no Ray but for batches."""
    app = FastAPI(
        title="Capricious Portraits",
        description="Re-renders portraits at other ages. Every picture that it makes says so in its metadata.",
        version=capricious.__version__,
        # FastAPI's own pages load scripts from a content delivery network: ours does not.
        docs_url=None,
        redoc_url=None,
    )
    # The last one is the first that a request meets.
    app.add_middleware(RoomGate, room=Room(arguments.max_megapixels_at_once * 1_000_000, arguments.retry_after_s))
    app.add_middleware(UploadGate, max_bytes=arguments.max_upload_mb * 2**20, seconds=arguments.upload_timeout_s)
    app.add_middleware(CallerGate, tokens=tokens, rate=Rate(arguments.rate_per_minute, arguments.burst))
    app.add_middleware(DoorGate, admission=admission, retry_after_s=arguments.retry_after_s)
    answer_problems(app)
    app.include_router(_pages(pipeline))
    v1 = APIRouter(prefix="/v1", responses=PROBLEMS, dependencies=[Security(HTTPBearer(auto_error=False))])
    v1.include_router(Portraits(arguments, pipeline).router())
    v1.include_router(batches_router(arguments))
    app.include_router(v1)
    # FastAPI knows models as application/json only: this one is named by hand, and so must be added by hand.
    app.openapi()["components"]["schemas"]["ProblemBody"] = ProblemBody.model_json_schema()
    return app


def _pages(pipeline: Pipeline) -> APIRouter:
    router = APIRouter()
    pages = {name: (WEB / name).read_text(encoding="utf-8") for name in ("index.html", "docs.html")}

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> str:
        return pages["index.html"]

    @router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        return pages["docs.html"]

    own = samples()

    @router.get("/samples", include_in_schema=False)
    async def sample_names() -> list[str]:
        """Names of the portraits that ship with Capricious, for the page."""
        return list(own)

    @router.get("/samples/{name}", include_in_schema=False)
    async def sample(name: str) -> Response:
        if name not in own:
            raise Problem(404, "no-such-sample", f"there is no sample {name[:60]!r}", stage="server")
        return Response(own[name], media_type="image/png", headers={"Cache-Control": "public, max-age=86400"})

    @router.get("/healthz", tags=["health"], response_description="It does.")
    async def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @router.get(READY, tags=["health"], response_description="They can.", responses={503: PROBLEMS[503]})
    async def readyz() -> dict[str, str]:
        """Whether faces can be found and rendered."""
        if not await pipeline.ready():
            raise Problem(503, "not-ready", "the models are not loaded yet", stage="server")
        return {"status": "ready"}

    return router


class Portraits:
    """The routes that take a picture."""

    def __init__(self, arguments: PortraitArguments, pipeline: Pipeline):
        self.arguments = arguments
        self.pipeline = pipeline
        # What else a render depends on, the same for all requests.
        annotator = [arguments.detector, arguments.landmarks, arguments.max_faces]
        self._making = {"annotator": annotator, "code": capricious.__version__}
        cache_bytes = arguments.annotation_cache_mb * 2**20
        self.annotations: SizedCache[AnnotatedPicture] = SizedCache("annotations", cache_bytes)

    def router(self) -> APIRouter:
        """Returns them."""
        router = APIRouter(tags=["portraits"])
        router.get("/bundle", response_description="The model and the limits.")(self.bundle)
        router.post("/annotations", response_description="The faces.")(self.annotate)
        files = binary("image/png", "image/gif", "application/zip", "multipart/mixed", "application/x-ndjson")
        router.post("/sweeps", response_class=Response, responses=files)(self.sweep)
        unchanged: dict[int | str, dict[str, Any]] = {304: {"description": "What If-None-Match names is still right."}}
        router.post("/renders", response_class=Response, responses={**binary(*MEDIA_TYPES.values()), **unchanged})(
            self.render
        )
        return router

    async def bundle(self) -> BundleBody:
        """The model, what it can be asked for, and the limits of this service."""
        async with asyncio.timeout(self.arguments.timeout_s):
            facts = await self.pipeline.facts()
        limits = LimitsBody(**{name: getattr(self.arguments, name) for name in LimitsBody.model_fields})
        return BundleBody(
            sha256=facts.sha256,
            bundle=facts.info,
            ages=[0, MAX_AGE],
            genders=list(GENDERS),
            glasses=list(GLASSES),
            emotions=list(EMOTIONS),
            limits=limits,
            batches=bool(self.arguments.prefixes),
        )

    async def annotate(self, form: Annotated[Upload, Form(media_type="multipart/form-data")]) -> AnnotationBody:
        """Finds the faces of a picture: outline, landmarks, label map, attributes."""
        data, name = await _read(form.file)
        async with asyncio.timeout(self.arguments.timeout_s):
            annotated = await self._annotated(data, name)
            return await asyncio.to_thread(_annotation_body, data, annotated)

    async def sweep(
        self, request: Request, form: Annotated[SweepRequest, Form(media_type="multipart/form-data")]
    ) -> Response:
        """Re-renders the faces of a picture in many variants."""
        sweep = form.sweep()
        if (count := len(sweep.variants())) > (most := self.arguments.max_variants):
            detail = f"a sweep has at most {most} variants here, the source included; found {count}"
            raise Problem(422, "too-many-variants", detail, found=count, allowed=most)
        data, name = await _read(form.file)
        composite: Composite = form.composite or ("face" if form.format == "sheet" else "painting")
        painting = composite == "painting" or form.format == "sheet"
        deadline = asyncio.get_running_loop().time() + self.arguments.timeout_s
        async with asyncio.timeout_at(deadline):
            annotated = await self._annotated(data, name)
            if painting:
                request.state.room.take(annotated.pixels)
            begun = await sweeps.begin(self.pipeline, annotated, data, sweep, form.sitter_age, deadline)
            rendered = await sweeps.admitted(begun.groups())
            if painting:
                await begun.see(data, name, form.preview)
            if form.format in ("ndjson", "multipart"):
                return _stream(form, begun, rendered, composite)
            async for _ in rendered:
                pass
            return await asyncio.to_thread(_file, form, begun, composite)

    async def render(
        self, request: Request, form: Annotated[RenderRequest, Form(media_type="multipart/form-data")]
    ) -> Response:
        """Re-renders a picture in one variant. The answer's ETag names it by content, parameters and bundle."""
        sweep = form.sweep()
        variant = sweep.variants()[-1]
        data, name = await _read(form.file)
        deadline = asyncio.get_running_loop().time() + self.arguments.timeout_s
        async with asyncio.timeout_at(deadline):
            facts = await self.pipeline.facts()
            asked = form.model_dump(exclude={"file"})
            etag = _etag(data, {**asked, **self._making, "bundle": facts.sha256})
            headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
            if etag in _etags(request.headers.get("if-none-match", "")):
                return Response(status_code=304, headers=headers)
            annotated = await self._annotated(data, name)
            if form.composite == "face" and form.face >= len(annotated.faces):
                detail = f"face must be in 0…{len(annotated.faces) - 1} in this picture, found: {form.face}"
                raise Problem(422, "no-such-face", detail, found=form.face, allowed=len(annotated.faces) - 1)
            if form.composite == "painting":
                request.state.room.take(annotated.pixels)
            begun = await sweeps.begin(self.pipeline, annotated, data, sweep, form.sitter_age, deadline)
            await begun.finished()
            if form.composite == "painting":
                await begun.see(data, name)
            content = await asyncio.to_thread(_picture, form, begun.result, variant.name)
        return Response(content, media_type=MEDIA_TYPES[form.picture_format], headers=headers)

    async def _annotated(self, data: bytes, name: str) -> AnnotatedPicture:
        """Returns the faces of an upload, from memory if it was here lately. Only its hash and faces are kept."""
        key = hashlib.sha256(data).digest()
        annotated = self.annotations.get(key)
        if annotated is None:
            annotated = await self.pipeline.annotate(data, name)
            size = sum(face.image.nbytes + face.label_map.nbytes + 2048 for face in annotated.faces)
            self.annotations.put(key, annotated, size)
        return annotated


async def _read(file: UploadFile) -> tuple[bytes, str]:
    """Returns an upload's bytes, and its name fit to be shown: no folders, no control characters, not too long."""
    name = (file.filename or "upload").replace("\\", "/").rpartition("/")[2]
    return await file.read(), "".join(c for c in name if c.isprintable())[:100] or "upload"


def _annotation_body(data: bytes, annotated: AnnotatedPicture) -> AnnotationBody:
    return AnnotationBody(
        source_sha256=hashlib.sha256(data).hexdigest(),
        width=annotated.width,
        height=annotated.height,
        classes=list(CLASSES),
        faces=[_face_body(face) for face in annotated.faces],
    )


def _face_body(face: Face) -> FaceBody:
    return FaceBody(
        quad=face.quad.tolist(),
        landmarks=face.landmarks.tolist(),
        pose=face.pose.tolist(),
        attributes=known(face.attributes),
        attribute_source=face.attribute_source,
        detection_score=float(face.detection_score),
        landmark_score=float(face.landmark_score),
        resolution_score=float(face.resolution_score),
        inside_score=float(face.inside_score),
        image=base64.b64encode(encode(face.image, "png", compression=QUICK)).decode("ascii"),
        label_map=base64.b64encode(encode(face.label_map, "png")).decode("ascii"),
    )


def _picture(form: RenderRequest, result: SweepResult, variant: str) -> bytes:
    with metrics.stage("compose"):
        if form.composite == "face":
            return result.crop_file(form.face, variant, form.picture_format)
        return result.file(variant, form.picture_format)


def _stream(
    form: SweepRequest, begun: sweeps.SweepInProgress, rendered: AsyncIterator[Any], composite: Composite
) -> Response:
    if form.format == "ndjson":
        lines = sweeps.lines(begun, rendered, composite, form.picture_format)
        return StreamingResponse(lines, media_type="application/x-ndjson")
    parts = sweeps.parts(begun, rendered, composite, form.picture_format)
    return StreamingResponse(parts, media_type=f"multipart/mixed; boundary={sweeps.BOUNDARY}")


def _file(form: SweepRequest, begun: sweeps.SweepInProgress, composite: Composite) -> Response:
    result = begun.result
    if form.format == "zip":
        spool = sweeps.archive(result, begun.wanted(begun.variants), composite, form.picture_format)
        return StreamingResponse(_chunks(spool), media_type="application/zip", headers=_named("sweep.zip"))
    with metrics.stage("compose"):
        if form.format == "gif":
            content = sweeps.animation(result, composite)
            return Response(content, media_type="image/gif", headers=_named("sweep.gif"))
        return Response(sweeps.sheet(result, composite), media_type="image/png", headers=_named("sweep.png"))


def _chunks(spool: IO[bytes]) -> Any:
    with spool:
        while chunk := spool.read(CHUNK):
            yield chunk


def _named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'inline; filename="{name}"'}


def _etag(data: bytes, asked: dict[str, Any]) -> str:
    """Returns a strong entity tag: the same tag, the same bytes."""
    named = json.dumps(asked, sort_keys=True).encode()
    return f'"{hashlib.sha256(hashlib.sha256(data).digest() + named).hexdigest()[:32]}"'


def _etags(header: str) -> set[str]:
    """Reads If-None-Match; it compares weakly (RFC 9110, 13.1.2)."""
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
