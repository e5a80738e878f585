"""The portraits that ship with Capricious: made by its own model, of nobody."""

from __future__ import annotations

from pathlib import Path

import capricious

_PACKAGE = Path(capricious.__file__).parent
_PLACES = (_PACKAGE / "samples", _PACKAGE.parents[1] / "examples" / "portraits")
"""In an installed wheel, and in a checkout."""


def samples() -> dict[str, bytes]:
    """Returns the PNG files by name; none where only the code is, as on a cluster to which it travelled with a job."""
    found = {path.name: path for folder in _PLACES for path in folder.glob("*.png")}
    return {name: path.read_bytes() for name, path in sorted(found.items())}
