"""A gallery of a whole run for curators: a static page that works from a folder or a bucket, with any number of works.

::

    gallery/index.html        the page, with the counts
    gallery/ok-0000.js        PAGE portraits each, loaded when they are looked at; failed-… and skipped-… likewise

The lists are scripts, not JSON, because browsers refuse to fetch() beside a page that was opened from a disk. What the
page shows it writes as text, never as HTML: titles come from file names of strangers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from capricious.render.provenance import EXTRAPOLATED, NOTICE

PAGE = 24
"""Portraits on one page."""

STATUSES = ("ok", "failed", "skipped")

Write = Callable[[str, bytes], None]
"""Takes a path below OUT and a content."""


class GalleryWriter:
    """Writes the gallery of a run, portrait after portrait; in memory are the unfinished pages of three lists.

    Args:
        write: puts a file below OUT.
    """

    def __init__(self, write: Write):
        self._write = write
        self._unfinished: dict[str, list[dict[str, Any]]] = {status: [] for status in STATUSES}
        self._counts = dict.fromkeys(STATUSES, 0)

    def add(self, status: str, entry: dict[str, Any]) -> None:
        """Adds a portrait.

        Args:
            status: of STATUSES.
            entry: JSON values: "folder", "title", "uri", "rights"; of a rendered one "faces" and "files" (product →
                path below OUT) and "extrapolated" (products), of the others "stage", "reason", "detail".
        """
        self._unfinished[status].append(entry)
        self._counts[status] += 1
        if len(self._unfinished[status]) == PAGE:
            self._finish_page(status)

    def close(self, title: str) -> None:
        """Writes what is unfinished, and last the page itself."""
        for status in STATUSES:
            if self._unfinished[status]:
                self._finish_page(status)
        facts = {"title": title, "notice": NOTICE, "extrapolated": EXTRAPOLATED, "counts": self._counts, "page": PAGE}
        page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
        self._write("gallery/index.html", page.replace("/*FACTS*/", _script(facts)).encode())

    def _finish_page(self, status: str) -> None:
        entries, self._unfinished[status] = self._unfinished[status], []
        number = (self._counts[status] - 1) // PAGE
        content = f"show({json.dumps(status)}, {number}, {_script(entries)});\n"
        self._write(f"gallery/{status}-{number:04d}.js", content.encode())


def _script(value: Any) -> str:
    """Returns JSON that may stand in a script in HTML: "</script>" in a title must not end it."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
