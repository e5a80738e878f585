"""What goes in and out: the parameters and answers that make up the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field

from capricious.faces.label_map import CLASSES
from capricious.render.sweep import Sweep

Composite = Literal["face", "painting"]
PictureFormat = Literal["png", "jpeg", "webp"]
Gender = Literal["female", "male"]
Glasses = Literal["none", "reading", "sun"]
Emotion = Literal["neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt"]
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

OWN_AGE = "own"


class Upload(BaseModel):
    """A picture: JPEG, PNG, WebP, TIFF, GIF, BMP, JPEG 2000 or AVIF, told apart by content."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile = Field(description="The picture, a photograph or a painting with a visible face.")


class RenderRequest(Upload):
    """One picture, one variant."""

    age: float | None = Field(None, ge=0, le=120, description="Years; default: the sitter's own age.", examples=[70])
    gender: Gender | None = Field(None, description="Default: the sitter's own.")
    glasses: Glasses | None = Field(None, description="Default: the sitter's own.")
    smile: float | None = Field(None, ge=0, le=1, description="0 is none, 1 a wide one; default: the sitter's own.")
    emotion: Emotion | None = Field(None, description="Default: the sitter's own.")
    sitter_age: float | None = Field(None, ge=0, le=120, description="True age of the largest face; else estimated.")
    composite: Composite = Field("painting", description="The whole picture, or one face cut from it and aligned.")
    face: int = Field(0, ge=0, le=1000, description="Which face, largest first, for composite=face.")
    picture_format: PictureFormat = Field("png", description="File format of the answer.")

    def sweep(self) -> Sweep:
        """Returns the sweep that has the variant that is asked for, last."""
        return Sweep(
            () if self.age is None else (self.age,),
            () if self.gender is None else (self.gender,),
            () if self.glasses is None else (self.glasses,),
            () if self.smile is None else (self.smile,),
            () if self.emotion is None else (self.emotion,),
        )


class SweepRequest(Upload):
    """One picture, many variants: the cross product of ages, genders, glasses, smiles and emotions."""

    ages: str | None = Field(
        None,
        max_length=400,
        description='"from:to:step" or "20,35,70", in the order of the answer; "own" leaves the age alone. '
        "Default: 10:80:10.",
        examples=["20:80:15"],
    )
    genders: str = Field("", max_length=100, description="Of female,male; default: the sitter's own.")
    glasses: str = Field("", max_length=100, description="Of none,reading,sun; default: the sitter's own.")
    smiles: str = Field("", max_length=100, description='"0,0.5,1" or from:to:step; default: the sitter\'s own.')
    emotions: str = Field(
        "",
        max_length=100,
        description="Of neutral,happy,sad,surprise,fear,disgust,anger,contempt; default: the sitter's own.",
    )
    sitter_age: float | None = Field(None, ge=0, le=120, description="True age of the largest face; else estimated.")
    format: Literal["sheet", "gif", "zip", "multipart", "ndjson"] = Field(
        "sheet",
        description="Contact sheet (PNG), animation (GIF), ZIP of pictures; multipart and ndjson send each variant as "
        "soon as it is rendered.",
    )
    composite: Composite | None = Field(
        None, description="Whole pictures or faces; default: faces on a sheet, else whole pictures."
    )
    picture_format: PictureFormat = Field("webp", description="File format of pictures in zip, multipart and ndjson.")
    preview: int = Field(
        0, ge=0, le=4096, description="Longer side of whole pictures in pixels, at most; 0: as uploaded."
    )

    def sweep(self) -> Sweep:
        """Returns the sweep that is asked for.

        Raises:
            ConfigError: it cannot be.
        """
        ages = "" if (self.ages or "").strip().lower() == OWN_AGE else self.ages
        return Sweep.parse(ages, self.genders, self.glasses, self.smiles, self.emotions)


class BatchRequest(BaseModel):
    """A collection to be rendered as a job on the cluster (jobs/render.py)."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(max_length=1000, description="The collection.", examples=["s3://museum/portraits"])
    out: str = Field(max_length=1000, description="Where results go.", examples=["s3://museum/sweeps"])
    ages: str = Field("10:80:10", max_length=400, description="As of a sweep.", examples=["20:80:15"])
    genders: str = Field("", max_length=100, description="As of a sweep.")
    glasses: str = Field("", max_length=100, description="As of a sweep.")
    smiles: str = Field("", max_length=100, description="As of a sweep.")
    emotions: str = Field("", max_length=100, description="As of a sweep.")
    limit: int = Field(0, ge=0, le=10_000_000, description="Render only so many, spread over the collection; 0: all.")


class BatchBody(BaseModel):
    """How a batch is getting on."""

    id: str = Field(examples=["render-1f0c2b9d4e6a"])
    status: Literal["pending", "running", "stopped", "succeeded", "failed"] = Field(
        description="Of its job: succeeded when all has been tried, even if some pictures failed."
    )
    message: str = Field(description="What there is to say, in the job server's words or ours; or nothing.")
    source: str = Field(description="The collection.", examples=["s3://museum/portraits"])
    out: str = Field(description="Where results go.", examples=["s3://museum/sweeps"])
    pictures: int | None = Field(description="In the collection; null until it has been listed.", examples=[1200])
    done: int = Field(description="Pictures in the ledger so far.", examples=[340])
    failed: int | None = Field(description="Pictures that failed; null until it has succeeded.", examples=[3])


class FaceBody(BaseModel):
    """One face as annotated."""

    quad: list[list[float]] = Field(description="Corners of the crop in the picture: 4 × (x, y) pixels.")
    landmarks: list[list[float]] = Field(description="68 × (x, y) pixels of the picture, in the order of iBUG.")
    pose: list[float] = Field(description="Yaw, pitch and roll of the head in degrees.")
    attributes: dict[str, Any] = Field(
        description="What is known of the sitter.", examples=[{"age": 34.0, "gender": 0.1, "glasses": "none"}]
    )
    attribute_source: dict[str, str | None] = Field(description="label, estimated or null for each attribute.")
    detection_score: float = Field(description="Of the detector, 0…1.", examples=[0.98])
    landmark_score: float = Field(description="Of the landmarks, 0…1.", examples=[0.9])
    resolution_score: float = Field(description="Pixels of the picture per pixel of the crop.")
    inside_score: float = Field(description="Share of the crop inside of the picture.")
    image: str = Field(description="The aligned crop, PNG, base64.")
    label_map: str = Field(description="Classes of the crop's pixels, PNG of class indices, base64.")


class AnnotationBody(BaseModel):
    """A picture with its faces, largest first."""

    source_sha256: str = Field(description="Of the upload.")
    width: int = Field(description="Of the picture, pixels, turned as its EXIF says.", examples=[1600])
    height: int = Field(description="Likewise.", examples=[2000])
    classes: list[str] = Field(description="Names of the label map's classes.", examples=[list(CLASSES)])
    faces: list[FaceBody] = Field(description="At least one.")


class LimitsBody(BaseModel):
    """What the service takes on."""

    max_upload_mb: int = Field(description="Size of an upload.", examples=[32])
    max_megapixels: int = Field(description="Size of its picture.", examples=[64])
    max_variants: int = Field(description="Of one sweep, the source included.", examples=[64])
    max_faces: int = Field(description="Of one picture, the largest ones; 0: all.", examples=[8])
    timeout_s: float = Field(description="After which a request is given up.", examples=[120])
    rate_per_minute: float = Field(description="Requests of one caller; 0: no limit.", examples=[0])


class BundleBody(BaseModel):
    """The model and what it can be asked for."""

    sha256: str = Field(description="Of the bundle's files.")
    bundle: dict[str, Any] = Field(description="The content of bundle.json: architecture, training, licence.")
    ages: list[float] = Field(description="Lowest and highest, in years.")
    genders: list[str] = Field(description="What a sweep may ask for.", examples=[["female", "male"]])
    glasses: list[str] = Field(description="Likewise.", examples=[["none", "reading", "sun"]])
    emotions: list[str] = Field(description="Likewise.", examples=[["neutral", "happy"]])
    limits: LimitsBody = Field(description="What the service takes on.")
    batches: bool = Field(description="Whether batches are on.")
