"""What THIRD_PARTY.md says of the weights that Capricious fetches."""

from __future__ import annotations

from capricious.weights.registry import REGISTRY

HEAD = """# Third-party weights

Made by `capricious weights notices`. Capricious ships none of these files: it fetches what a job needs from its
publisher, on the user's machine, and checks its sha256. "Commercial: no" marks what must not be used commercially as
far as we know, mostly for the pictures that it was trained on; `CAPRICIOUS_PERMISSIVE_ONLY=1` refuses those.

| weight | licence of the code | licence of the weights | commercial | from | MB | sha256 |
|---|---|---|---|---|---:|---|
"""


def notices() -> str:
    """Returns the Markdown."""
    rows = []
    for name, weight in REGISTRY.items():
        size = f"{weight.size / 1e6:.1f}" if weight.size else "?"
        commercial = "yes" if weight.commercial else "no"
        licences = f"{weight.code_license} | {weight.weights_license} | {commercial}"
        rows.append(f"| {name} | {licences} | `{weight.sources[0]}` | {size} | `{weight.sha256[:16]}` |")
    return HEAD + "\n".join(rows) + "\n"
