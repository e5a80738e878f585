"""What `serve run serve.app:portrait key=value …` takes."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from capricious.model.bundle import DEFAULT
from capricious.render.sweep import MAX_VARIANTS
from serve.places import Prefix


class PortraitArguments(BaseModel):
    """Settings of the service. Tokens are no argument: they come from the environment (serve.gates).

    Attributes:
        bundle: folder of the model bundle, readable by every replica, or its s3:// address; by default the one that
            ships with Capricious.
        device: "cpu" or "cuda" (one GPU per replica of the model).
        threads: CPU cores of a replica of the model.
        replicas, max_replicas: of the model, at least and at most; Ray Serve scales between them by load.
        annotating_replicas, annotating_max_replicas: of what finds faces, likewise; one CPU each.
        ingress_replicas: of what speaks HTTP. Rate limits and the cache of annotations are of each.
        max_batch: groups of variants, from any number of requests, that the model takes up together.
        batch_wait_s: seconds that a call which finds the model idle waits for others; a busy one gathers by itself.
        style_cache_mb: memory of a replica of the model for style codes and modulations of faces seen lately; a
            sixteenth of it more keeps pictures.
        annotation_cache_mb: memory of an ingress for annotations of pictures seen lately; 0 keeps none.
        max_ongoing: requests that one ingress has in hand; beyond that the answer is 429.
        max_queued: calls that wait for a model or an annotator, at most; beyond that the answer is 429.
        retry_after_s: what a 429 for overload tells its caller to wait, in seconds.
        timeout_s: seconds after which a request is given up with 504.
        upload_timeout_s: seconds that an upload may take.
        max_upload_mb: larger uploads are refused while they arrive.
        max_megapixels: larger pictures are refused before they are decoded.
        max_megapixels_at_once: of all pictures that one ingress holds decoded; beyond that the answer is 429. One takes
            3 MB, with 16 bits a channel 9 MB, and as much again while a file is made of it.
        max_variants: of one sweep, the source included.
        max_faces: faces annotated per picture, largest first; 0 for all.
        rate_per_minute: requests of one token (of one address where there are no tokens); 0 for no limit.
        burst: requests that may come at once within that rate.
        detector, landmarks: backends, as in AnnotatorConfig.
        batch_prefixes: where batches may read and write, separated by commas: s3://museum/, /data/portraits,
            https://iiif.museum.org/. Empty: no batches.
        batch_workers: Ray actors of a batch, a CPU each: of those that the service itself leaves free.
        max_batches: of all callers at once; beyond that the answer is 429. Each is 0.5 GB on the head node.
        jobs_address: of the cluster's job server, which batches are submitted to. Only the head node has one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str = DEFAULT
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1)
    replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    annotating_replicas: int = Field(1, ge=1)
    annotating_max_replicas: int = Field(1, ge=1)
    ingress_replicas: int = Field(1, ge=1)
    max_batch: int = Field(4, ge=1)
    batch_wait_s: float = Field(0.005, ge=0, le=1)
    style_cache_mb: int = Field(512, ge=0)
    annotation_cache_mb: int = Field(64, ge=0)
    max_ongoing: int = Field(64, ge=1)
    max_queued: int = Field(64, ge=1)
    retry_after_s: int = Field(5, ge=1)
    timeout_s: float = Field(120, gt=0)
    upload_timeout_s: float = Field(60, gt=0)
    max_upload_mb: int = Field(32, ge=1)
    max_megapixels: int = Field(64, ge=1)
    max_megapixels_at_once: int = Field(256, ge=1)
    max_variants: int = Field(64, ge=2, le=MAX_VARIANTS)
    max_faces: int = Field(8, ge=0)
    rate_per_minute: float = Field(0, ge=0)
    burst: int = Field(10, ge=1)
    detector: str = "auto"
    landmarks: str = "auto"
    batch_prefixes: str = ""
    batch_workers: int = Field(1, ge=1)
    max_batches: int = Field(4, ge=1)
    jobs_address: str = "http://127.0.0.1:8265"

    @field_validator("batch_prefixes")
    @classmethod
    def _prefixes_can_be_read(cls, text: str) -> str:
        for prefix in _listed(text):
            Prefix.parse(prefix)
        return text

    @model_validator(mode="after")
    def _one_picture_has_room(self) -> Self:
        if self.max_megapixels_at_once < self.max_megapixels:
            raise ValueError("max_megapixels_at_once must not be less than max_megapixels, which one picture may have")
        return self

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """batch_prefixes, read."""
        return tuple(Prefix.parse(prefix) for prefix in _listed(self.batch_prefixes))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
