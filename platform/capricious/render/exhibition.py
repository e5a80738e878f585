"""A page for a few exhibits, such as the demo: one self-contained HTML file that asks nothing from any server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from capricious.render.provenance import NOTICE


@dataclass(frozen=True)
class Exhibit:
    """One portrait on the page.

    Attributes:
        title: of the work.
        sitter: who is shown, and what was done, e.g. "unknown woman, rendered at 10 to 80 years".
        source: where the picture comes from and under which licence.
        sheet, animation: paths relative to the page; the animation may be missing.
    """

    title: str
    sitter: str
    source: str
    sheet: str
    animation: str | None = None


def exhibition_page(exhibits: Sequence[Exhibit], *, title: str, introduction: str = "") -> str:
    """Returns the HTML of the page. Nothing but relative links is in it."""
    body = "\n".join(_article(number, exhibit) for number, exhibit in enumerate(exhibits))
    return _PAGE.format(
        title=escape(title), introduction=escape(introduction), style=_STYLE, body=body, notice=escape(NOTICE)
    )


def _article(number: int, exhibit: Exhibit) -> str:
    title, sitter = escape(exhibit.title), escape(exhibit.sitter)
    # The first pictures are on screen at once; the others wait until they are scrolled to.
    loading = "eager" if number < 2 else "lazy"
    moving = ""
    if exhibit.animation is not None:
        moving = (
            f'<img class="moving" src="{quote(exhibit.animation)}" loading="{loading}" '
            f'alt="Animation: {title}, {sitter}">'
        )
    return (
        f"<article><div>{moving}<h2>{title}</h2><p>{sitter}</p><p class='source'>{escape(exhibit.source)}</p></div>"
        f'<a href="{quote(exhibit.sheet)}"><img src="{quote(exhibit.sheet)}" loading="{loading}" '
        f'alt="Contact sheet: {title}, {sitter}"></a></article>'
    )


_STYLE = """
:root { color-scheme: light dark; --paper: #f7f3eb; --ink: #342f2a; --faded: #766d62; --rule: #ded6c9 }
@media (prefers-color-scheme: dark) { :root { --paper: #1b1917; --ink: #e9e3d8; --faded: #a0968a; --rule: #3a352f } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 84rem; padding: 4rem 1.5rem; background: var(--paper); color: var(--ink);
  font: 1.05rem/1.55 Georgia, "Iowan Old Style", "Times New Roman", serif }
h1 { font-weight: normal; font-size: 2.4rem; letter-spacing: .01em; margin: 0 0 .5rem }
h2 { font-weight: normal; font-style: italic; font-size: 1.3rem; margin: .9rem 0 .2rem }
header p { max-width: 42rem; color: var(--faded); margin: 0 }
article { display: grid; grid-template-columns: 16rem 1fr; gap: 2.5rem; align-items: start;
  border-top: 1px solid var(--rule); padding: 2.5rem 0; margin-top: 2.5rem }
article p { margin: 0 } .source, footer { color: var(--faded); font-size: .85rem }
img { display: block; width: 100%; height: auto }
a:focus-visible { outline: 2px solid var(--ink); outline-offset: 4px }
footer { border-top: 1px solid var(--rule); padding-top: 1.5rem; margin-top: 2.5rem }
@media (max-width: 48rem) { article { grid-template-columns: 1fr } body { padding-top: 2rem } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>{introduction}</p></header>
<main>
{body}
</main>
<footer>{notice} Each file says so in its metadata, with the hashes of its source and its model.</footer>
</body>
</html>
"""
