"""Bytes to pixels and back: every picture from outside enters through `decode`, and through Pillow first.

A collection holds whatever sixty years of scanners and web sites left in it, and a public service gets
files that mean harm. So the format is read from the content (faces.formats), the size is
checked before any pixel is decoded, and all that comes out is 8-bit sRGB or a Rejection.
"""

from __future__ import annotations

import io
import logging
import struct

import numpy as np
from PIL import ExifTags, Image, ImageCms

from capricious.errors import Rejection
from capricious.faces.deep import bits_of, decode_16_bit
from capricious.faces.formats import FORMATS, OPENERS, format_of
from capricious.faces.tiff import encode_tiff

log = logging.getLogger(__name__)

MAX_PIXELS = 256 * 1024 * 1024
"""Default cap on width × height: 16,384 × 16,384. Decoding needs about 8 bytes of memory per pixel."""

MIN_SIDE = 16
"""Default lower limit of width and height in pixels; a smaller picture cannot hold a face."""

MATTE = 128
"""Grey level behind transparent pixels: neutral, so that a cut-out head gets neither glow nor shadow."""


def decode(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE) -> np.ndarray:
    """Decodes a picture from an untrusted source.

    EXIF orientation is applied; embedded ICC profiles are converted to sRGB; CMYK, Lab, grey, palette,
    1-bit and 16-bit pixels become 8-bit RGB (16-bit values are scaled, not clipped); transparency is
    laid over MATTE; of animations and multi-page files the first frame is taken. A picture whose
    profile is broken is read as if it had none, with a warning in the log, as browsers do.

    Args:
        data: the file's bytes; its format is taken from the content.
        name: file name or URI, for messages only.
        max_pixels: cap on width × height, checked against the header before pixels are decoded.
        min_side: smallest width and height allowed, in pixels.

    Returns:
        H×W×3 uint8 sRGB, writable and contiguous.

    Raises:
        Rejection: stage "decode"; reason "empty", "unsupported-format", "not-an-image",
            "too-many-pixels", "too-small", "unsupported-depth", "truncated" or "corrupt".
    """

    def reject(reason: str, detail: str) -> Rejection:
        return Rejection("decode", reason, f"{name}: {detail}")

    if not data:
        raise reject("empty", "the file has 0 bytes; copy or download it again")
    kind = format_of(data)
    if kind not in OPENERS:
        if kind:
            raise reject("unsupported-format", f"the file is {kind}; convert it to one of {', '.join(FORMATS)}")
        raise reject("not-an-image", f"the content is none of {', '.join(FORMATS)}")
    try:
        with OPENERS[kind](io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise reject(
                    "too-many-pixels",
                    f"{width:,} × {height:,} pixels, allowed are {max_pixels:,} in all; scale it down",
                )
            if min(width, height) < min_side:
                raise reject(
                    "too-small",
                    f"{width} × {height} pixels, each side needs at least {min_side}; find a larger scan",
                )
            image.load()
            if unread := _unread_depth(image, data):
                raise reject("unsupported-depth", unread)
            srgb = _to_srgb(_with_its_whites(image, data), name)
            return upright(np.array(srgb), orientation_of(image, name))
    except Rejection:
        raise
    except Image.DecompressionBombError as error:  # WebP and GIF keep Pillow's own, lower limit
        raise reject("too-many-pixels", f"{error}; scale it down") from error
    except Exception as error:  # on hostile bytes Pillow's plugins raise nearly every type there is
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        cause = f"{type(error).__name__}: {error}"
        raise reject(reason, f"damaged {kind} file ({cause}); copy or download it again") from error


def _unread_depth(image: Image.Image, data: bytes) -> str:
    """Says why the samples of a loaded picture are not to be had, and what to do; nothing if they are."""
    if image.mode in ("I", "F"):
        return "32-bit samples have no agreed white; convert it to 8 or 16 bits per channel"
    if bits_of(image, data) <= 8 or image.mode == "I;16":
        return ""
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.PlanarConfiguration) == 2:
        return "its channels of 16 bits are stored one after the other (per channel); save it interleaved"
    if image.format == "JPEG2000" and image.mode != "RGB":
        return f"a JPEG 2000 of more than 8 bits per channel must be RGB or grey, found: {image.mode}; save it as that"
    return ""


def _with_its_whites(image: Image.Image, data: bytes) -> Image.Image:
    """Reads a JPEG 2000 of more than 8 bits anew: where Pillow rounds its white up to 256, it becomes black."""
    bits = bits_of(image, data)
    if image.format != "JPEG2000" or image.mode != "RGB" or bits <= 8:
        return image
    pixels = decode_16_bit(data)
    if pixels is None:
        raise ValueError(f"OpenCV does not read its {bits} bits per channel")
    again = Image.fromarray((pixels >> (bits - 8)).astype(np.uint8))
    again.info = image.info
    return again


def _to_srgb(image: Image.Image, name: str) -> Image.Image:
    """Returns a loaded picture of any 8- or 16-bit mode as opaque sRGB, mode RGB."""
    if image.mode.startswith("I;16"):
        # A transparent grey level (PNG's tRNS) is not honoured here: 16-bit grey files are scans.
        colour, alpha = _eight_bit(image), None
    else:
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        colour = _without_alpha(image)
    rgb = apply_profile(colour, image.info.get("icc_profile"), name)
    if alpha is None:
        return rgb
    matte = Image.new("RGB", rgb.size, (MATTE, MATTE, MATTE))
    matte.paste(rgb, mask=alpha)
    return matte


def _without_alpha(image: Image.Image) -> Image.Image:
    """Reduces a mode to its colours: L, RGB, CMYK or LAB."""
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    elif image.mode == "P" and image.has_transparency_data:
        image = image.convert("RGBA")  # Pillow warns on the direct way
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scales 16-bit (or 12-bit) grey to 8 bits; Pillow's own convert() would clip at 255."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    values = np.asarray(image).astype(np.float32) * (255.0 / (2**bits - 1))
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # TIFF's "white is zero"
        values = 255.0 - values
    return Image.fromarray(np.rint(values).astype(np.uint8))


def apply_profile(colour: Image.Image, icc: bytes | None, name: str) -> Image.Image:
    """Converts L, RGB, CMYK or LAB to sRGB through its ICC profile, or by convention without one."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            if profile.profile.xcolor_space.strip() == "RGB" and colour.mode == "L":
                colour = colour.convert("RGB")  # grey files often carry the profile of their RGB parent
            return _convert(colour, profile)
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            log.warning("%s: ICC profile ignored, colours taken as sRGB: %s", name, error)
    if colour.mode == "LAB":
        return _convert(colour, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    return colour.convert("RGB")


def _convert(colour: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    rgb = ImageCms.profileToProfile(
        colour,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert rgb is not None  # None only in place
    return rgb


def orientation_of(image: Image.Image, name: str) -> int:
    """Returns the EXIF orientation, 1 (upright) if there is none or the EXIF block is damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, TypeError, ValueError, KeyError, struct.error) as error:
        log.warning("%s: EXIF block ignored, orientation taken as upright: %s", name, error)
        return 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors H×W×C as the EXIF orientation, 1…8, asks for; contiguous."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of red, green and blue (ITU-R BT.601): how light a pixel is. What a colour has besides is hue and saturation."""

QUICK = 3
"""PNG compression of pictures that somebody waits for: half of the time of 6, for 4 to 8 % more bytes. Label maps keep
6, which makes them a fifth smaller."""


def encode(
    image: np.ndarray,
    format: str = "png",
    quality: int = 90,
    lossless: bool = False,
    *,
    icc: bytes | None = None,
    exif: bytes = b"",
    compression: int = 6,
) -> bytes:
    """Encodes H×W×3 (sRGB, or as `icc` says) or H×W as "png", "jpeg", "webp" or "tiff".

    Args:
        image: the pixels, uint8; for tiff also uint16.
        format: "png" and "tiff" (deflated) are always lossless, "jpeg" never.
        quality: 1…100, for jpeg and lossy webp.
        lossless: webp only.
        icc: colour profile to embed.
        exif: EXIF block to embed, as Pillow's Exif.tobytes() gives it.
        compression: png only, 0 (none) … 9 (slow); see QUICK.

    Raises:
        ValueError: shape, dtype, format or quality is none of these, or a side is longer than the
            format allows (JPEG 65,535, WebP 16,383); the message says which.
    """
    deep = format == "tiff" and image.dtype == np.uint16
    if not (image.dtype == np.uint8 or deep) or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"image must be H×W×3 or H×W uint8 (tiff: or uint16), found: {image.shape} {image.dtype}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be in 1…100, found: {quality}")
    longest = {"png": 2**31 - 1, "jpeg": 65_535, "webp": 16_383, "tiff": 2**31 - 1}.get(format)
    if longest is None:
        raise ValueError(f"format must be png, jpeg, webp or tiff, found: {format!r}")
    if not 0 < min(image.shape[:2]) <= max(image.shape[:2]) <= longest:
        raise ValueError(f"{format} needs sides of 1…{longest} pixels, found: {image.shape[:2]}")
    if lossless and format == "jpeg":
        raise ValueError("jpeg cannot be lossless; use png or webp")
    if format == "tiff":
        return encode_tiff(image, icc=icc, exif=exif)
    options: dict[str, object] = {}
    if format == "jpeg":
        options = {"quality": quality, "subsampling": 0}  # 4:4:4: painted lips and eyes are small and red
    elif format == "png":
        options = {"compress_level": compression}
    elif format == "webp":
        options = {"quality": quality, "lossless": lossless, "method": 0}  # a third of the time of 4, 5 % more bytes
    if icc:
        options["icc_profile"] = icc
    if exif:
        options["exif"] = exif
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(out, format, **options)
    return out.getvalue()
