"""Where a job may read: below some prefixes, whatever a collection names and wherever its links lead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import unquote


class Places:
    """Everything below some addresses.

    Args:
        prefixes: folders or URLs. ``s3://museum`` does not hold ``s3://museum-private/x.jpg``.
    """

    def __init__(self, prefixes: Sequence[str]):
        self._prefixes = tuple(_folder(prefix) for prefix in prefixes)

    def hold(self, uri: str) -> bool:
        """Says whether a path, with all links followed, or a URL is one of the prefixes or below it."""
        return _folder(uri).startswith(self._prefixes)


def _folder(uri: str) -> str:
    if "://" not in uri:
        uri = os.path.realpath(uri)
    elif ".." in unquote(uri).split("/"):  # what a server makes of it, it alone knows
        uri = ""
    return uri.rstrip("/") + "/"
