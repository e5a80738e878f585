"""A portrait's sweep as a IIIF Presentation manifest (https://iiif.io/api/presentation/3.0/), for any IIIF viewer."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from capricious.render.picture import SweepResult
from capricious.render.provenance import DIGITAL_SOURCE_TYPE, EXTRAPOLATED, NOTICE


def manifest(result: SweepResult, files: Sequence[str], address: str) -> bytes:
    """Returns the manifest of a portrait: one canvas for each of its paintings.

    Args:
        result: the sweep.
        files: names of the paintings' files, in the order of the sweep's variants without the source.
        address: of the folder in which files and manifest will be found, https://….
    """
    height, width = result.picture.shape[:2]
    size = {"height": height, "width": width}
    canvases = []
    for file in files:
        canvas, picture = f"{address}/canvas/{quote(file)}", f"{address}/{quote(file)}"
        body = {"id": picture, "type": "Image", "format": mimetypes.guess_type(file)[0], **size}
        annotation = {
            "id": f"{canvas}/annotation",
            "type": "Annotation",
            "motivation": "painting",
            "body": body,
            "target": canvas,
        }
        page = {"id": f"{canvas}/page", "type": "AnnotationPage", "items": [annotation]}
        name = file.rpartition(".")[0]
        label = name.replace("_", ", ").replace("-", " ")
        if name in result.extrapolated:
            label += f" ({EXTRAPOLATED})"
        canvases.append({"id": canvas, "type": "Canvas", "label": _text(label), **size, "items": [page]})
    facts = {
        "Source": result.source_uri,
        "Source sha256": result.source_sha256,
        "Model bundle sha256": result.bundle_sha256,
        "Digital source type": DIGITAL_SOURCE_TYPE,
    }
    document: dict[str, Any] = {
        "@context": "http://iiif.io/api/presentation/3/context.json",
        "id": f"{address}/manifest.json",
        "type": "Manifest",
        "label": _text(result.title),
        "requiredStatement": {"label": _text("AI-altered"), "value": _text(NOTICE)},
        "metadata": [{"label": _text(name), "value": _text(value)} for name, value in facts.items() if value],
        "items": canvases,
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _text(value: str) -> dict[str, list[str]]:
    return {"none" if "://" in value else "en": [value]}
