"""IIIF: the pictures that museums show by Presentation manifests and collections, versions 2 and 3.

https://iiif.io/api/presentation/3.0/ and /2.1/; images by the Image API, https://iiif.io/api/image/3.0/ and /2.1/.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin

from capricious.data import storage
from capricious.data.collections import web
from capricious.data.collections.image_api import image_url, is_image_service
from capricious.data.collections.source import Source
from capricious.errors import CapriciousError, Rejection

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Size of the largest manifest that is read."""
_TAG = re.compile(r"<[^>]*>")
Json = dict[str, Any]


def read_iiif(uri: str) -> Iterator[Source]:
    """Yields the pictures painted on the canvases of a manifest, or of all manifests of a collection, in order.

    Nested and paged collections are followed, one document in memory at a time; an address that was there before
    (a circle, or a picture in two manifests) is passed over. A manifest below the first that cannot be had or
    understood, and a canvas without a picture, each give one refused source.

    Args:
        uri: of a manifest or collection, on the web or as a file.

    Raises:
        CapriciousError: the first document cannot be had or is not of IIIF.
    """
    allowed = web.AllowedHosts.from_environment(web.host_of(uri) if web.is_url(uri) else "")
    try:
        # Only what the user names may be a file here or in an object store; what a document refers to may not.
        data = None if web.is_url(uri) else storage.read_at_most(uri, MAX_DOCUMENT_BYTES)
        first = _document(uri, allowed) if data is None else _parsed(data, uri)
    except FileNotFoundError as error:
        raise CapriciousError(f"there is no IIIF manifest or collection at {uri}") from error
    except (OSError, Rejection) as error:
        raise CapriciousError(f"{uri} cannot be read: {error}") from error
    return _walk(uri, first, allowed)


def _walk(uri: str, first: Json, allowed: web.AllowedHosts) -> Iterator[Source]:
    seen: set[str] = set()
    waiting: list[tuple[str, Json | None]] = [(uri, first)]  # documents yet to be read, the next one last
    while waiting:
        address, document = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        try:
            document = _document(address, allowed) if document is None else document
            sources = list(_pictures(document, address, allowed))
            references = list(_references(document, address))
        except (OSError, Rejection) as error:
            yield _refused(address, error)
            continue
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
            yield Source(address).refuse("bad-manifest", f"not as IIIF Presentation 2 or 3 has it: {error!r}")
            continue
        for source in sources:
            if source.uri not in seen:
                seen.add(source.uri)
                yield source
        waiting.extend(reversed(references))


def _refused(address: str, error: OSError | Rejection) -> Source:
    if isinstance(error, Rejection):
        return Source(address).refuse(error.reason, error.detail)
    return Source(address).refuse("not-found" if isinstance(error, FileNotFoundError) else "unreadable", str(error))


def _document(uri: str, allowed: web.AllowedHosts) -> Json:
    return _parsed(web.fetch(uri, allowed, MAX_DOCUMENT_BYTES), uri)


def _parsed(data: bytes, uri: str) -> Json:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Rejection("read", "bad-manifest", f"{uri} is not JSON: {error}") from error
    if not isinstance(document, dict) or _type(document) not in ("Collection", "CollectionPage", "Manifest"):
        found = _type(document) if isinstance(document, dict) else type(document).__name__
        raise Rejection(
            "read", "bad-manifest", f"{uri} must be a IIIF Collection or Manifest, found: {found or 'none'}"
        )
    return document


def _references(document: Json, base: str) -> Iterator[tuple[str, Json | None]]:
    """Yields the documents that a collection leads to: its members in order, then its next page."""
    if _type(document) == "Manifest":
        return
    members = [m for name in ("items", "members", "collections", "manifests") for m in _list(document.get(name))]
    pages = [page for name in ("first", "next") for page in _list(document.get(name))]
    for reference in [*members, *pages]:
        address = urljoin(base, _id(reference))
        # A manifest that is embedded whole has canvases; a reference has none.
        whole = isinstance(reference, dict) and (reference.get("sequences") or _is_whole(reference))
        yield address, reference if whole else None


def _is_whole(reference: Json) -> bool:
    return _type(reference) in ("Manifest", "Collection", "CollectionPage") and bool(_list(reference.get("items")))


def _pictures(document: Json, base: str, allowed: web.AllowedHosts) -> Iterator[Source]:
    if _type(document) != "Manifest":
        return
    license = _license(document)
    # The first sequence of a version 2 manifest has all canvases; others show them in another order.
    sequence = _list(document.get("sequences"))[:1]
    canvases = _list(sequence[0].get("canvases")) if sequence else _list(document.get("items"))
    for canvas in canvases:
        images = list(_painted(canvas, base, allowed))
        if not images:
            yield Source(_id(canvas)).refuse("no-image", f"no picture is painted on this canvas of {base}")
        for image in images:
            yield _source(image, base, allowed, _license(canvas) or license)


def _source(image: Json, base: str, allowed: web.AllowedHosts, license: str) -> Source:
    services = [service for service in _list(image.get("service")) if is_image_service(service)]
    url = urljoin(base, image_url(services[0], image) if services else _id(image))
    source = Source(url, license=license, host=allowed.own)
    try:
        allowed.check(url)
    except Rejection as rejection:
        return source.refuse(rejection.reason, rejection.detail)
    return source


def _painted(canvas: Json, base: str, allowed: web.AllowedHosts) -> Iterator[Json]:
    """Yields the image resources of a canvas: those of its painting annotations, the first of each choice."""
    for annotation in _list(canvas.get("images")):  # version 2
        yield from _images_of(annotation.get("resource"))
    for page in _list(canvas.get("items")):  # version 3
        if "items" not in page:
            page = json.loads(web.fetch(urljoin(base, _id(page)), allowed, MAX_DOCUMENT_BYTES))
        for annotation in _list(page.get("items")):
            if "painting" in _list(annotation.get("motivation")):
                for body in _list(annotation.get("body")):
                    yield from _images_of(body)


def _images_of(body: Any) -> Iterator[Json]:
    if not isinstance(body, dict):
        return
    if _type(body) == "Choice":  # version 2: default and item; version 3: items
        alternatives = [*_list(body.get("default")), *_list(body.get("items")), *_list(body.get("item"))]
        yield from (image for image in alternatives[:1] for image in _images_of(image))
    elif _type(body) == "SpecificResource":  # a part of an image; the whole is taken
        yield from (image for image in _list(body.get("source") or body.get("full")) for image in _images_of(image))
    elif _type(body) == "Image":
        yield body


def _license(resource: Mapping[str, Any]) -> str:
    """Returns what a manifest or canvas says of rights: a URL, and the statement that is to be shown."""
    statement = resource.get("requiredStatement") or {}
    said = [
        *_texts(resource.get("rights")),
        *_texts(resource.get("license")),
        *_texts(statement.get("value")),
        *_texts(resource.get("attribution")),
    ]
    return "; ".join(said)


def _texts(value: Any) -> list[str]:
    """Returns the texts of a value of version 2 (text, list, @value) or 3 (language → list), without markup."""
    if isinstance(value, str):
        text = " ".join(html.unescape(_TAG.sub(" ", value)).split())
        return [text] if text else []
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        if "@value" in value:
            return _texts(value["@value"])
        # One language: English where there is English, else the first.
        return _texts(value.get("en", next(iter(value.values()), None)))
    return []


def _type(resource: Json) -> str:
    """Returns "Manifest" for both "Manifest" and "sc:Manifest"."""
    kind = resource.get("type") or resource.get("@type") or ""
    return str(kind).rpartition(":")[2]


def _id(resource: Any) -> str:
    found = resource if isinstance(resource, str) else resource.get("id") or resource["@id"]
    return str(found).partition("#")[0]


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
