"""Addresses of IIIF's Image API: a picture at a bounded size (https://iiif.io/api/image/3.0/, /2.1/, /1.1/)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_SIDE = 2048
"""Longest side in pixels that is asked for; a face of 128…1024 pixels needs no more."""
_VERSION = re.compile(r"iiif\.io/api/image/(\d)|ImageService(\d)|image-api/(\d)")
_LEVEL = re.compile(r"level(\d)")


def is_image_service(service: Any) -> bool:
    """Says whether a service of an image resource is one of the Image API."""
    return isinstance(service, dict) and _version(service) is not None


def image_url(service: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    """Returns the address of an image, at most MAX_SIDE on a side and never enlarged.

    Where the image is no larger than that, it is asked for whole: ``max`` in version 3, ``full`` before. Services of
    level 0 have fixed files only, so the address that the manifest gives for the image itself is taken. Those of level
    1 need not fit an image into a box, so they are asked for a width.

    Args:
        service: as a manifest embeds it: ``id`` or ``@id``, ``profile``, and where given, limits and size.
        image: the resource that has the service: its address, and where given, ``width`` and ``height``.
    """
    version, level = _version(service) or 2, _level(service)
    base = str(service.get("id") or service.get("@id") or "").removesuffix("/info.json").rstrip("/")
    own = str(image.get("id") or image.get("@id") or "")
    if own and (level == 0 or not base):
        return own
    quality = "native" if version == 1 else "default"
    return f"{base}/full/{_size(version, level, service, image)}/0/{quality}.jpg"


def _size(version: int, level: int, service: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    # Image API 3.0, 5.2: a maxWidth alone bounds the height, too.
    widest = min(MAX_SIDE, _pixels(service, "maxWidth") or MAX_SIDE)
    highest = min(MAX_SIDE, _pixels(service, "maxHeight") or widest)
    whole = "max" if version >= 3 else "full"
    width = _pixels(image, "width") or _pixels(service, "width")
    height = _pixels(image, "height") or _pixels(service, "height")
    if width is None or height is None:
        return f"!{widest},{highest}"
    area = _pixels(service, "maxArea")
    scale = min(1.0, widest / width, highest / height, (area / (width * height)) ** 0.5 if area else 1.0)
    if scale == 1.0:
        return whole
    if level == 1:
        return f"{max(1, int(width * scale))},"
    return f"!{widest},{highest}"


def _version(service: Mapping[str, Any]) -> int | None:
    said = " ".join(str(service.get(name, "")) for name in ("type", "@type", "@context", "profile"))
    match = _VERSION.search(said)
    return int(next(filter(None, match.groups()))) if match else None


def _level(service: Mapping[str, Any]) -> int:
    """Returns the level of compliance: 0, 1 or 2; where none is given, 2."""
    match = _LEVEL.search(str(service.get("profile", "")))
    return int(match[1]) if match else 2


def _pixels(resource: Mapping[str, Any], name: str) -> int | None:
    value = resource.get(name)
    return int(value) if isinstance(value, int | float) and value >= 1 else None
