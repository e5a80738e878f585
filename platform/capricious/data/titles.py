"""What a picture is called in front of people: the telling part of its address, often an accession number."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote

_IMAGE_API = re.compile(r"/([^/]+)/[^/]+/[^/]+/!?[\d.]+/(?:default|native|color|gray|grey|bitonal)\.\w+$")
"""Of IIIF's Image API: …/identifier/region/size/rotation/quality.format; the last is the same for all of a museum's."""


def title_of(uri: str) -> str:
    """Returns the identifier of an address of IIIF's Image API, else the file's name without its ending."""
    found = _IMAGE_API.search(uri)
    return unquote(found[1]) if found else PurePosixPath(uri).stem
