"""Building blocks of reports: HTML that stands alone, reads on a phone and on paper, and asks nothing of any server.

Every function takes plain text and returns HTML; text from outside is escaped here and nowhere else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from capricious.faces.image import encode


def page(title: str, introduction: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """Returns a whole page.

    Args:
        title, introduction: text of the head.
        sections: anchor, heading and HTML of each.
    """
    links = "".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading, _ in sections)
    body = "\n".join(
        f'<section id="{anchor}"><h2>{escape(heading)}</h2>\n{html}\n</section>' for anchor, heading, html in sections
    )
    return _PAGE.format(title=escape(title), introduction=escape(introduction), style=_STYLE, links=links, body=body)


def number(count: int) -> str:
    """Writes 1234567 as 1,234,567."""
    return f"{count:,}"


def share(part: float, whole: float) -> str:
    """Writes a part as a percentage, "–" of nothing; a small share keeps a digit, so that few are not none."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if percent in (0, 100) or 9.95 <= percent < 99.5:
        return f"{percent:.0f}\N{NO-BREAK SPACE}%"
    if percent < 0.05:
        return "under\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%"
    return f"{min(percent, 99.9):.1f}\N{NO-BREAK SPACE}%"


def signed(value: float) -> str:
    """Writes a number with a proper minus."""
    return f"{value:g}".replace("-", "−")


def paragraph(text: str, style: str = "") -> str:
    """A paragraph; the style "note" is small and faded."""
    return f'<p class="{escape(style)}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def warning(text: str) -> str:
    """What must not be overlooked, in red."""
    return f'<p class="warning" role="note"><b>Beware.</b> {escape(text)}</p>'


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    """Large figures: value, what it counts, and a remark."""
    return (
        '<dl class="tiles">'
        + "".join(
            f"<div><dt>{escape(what)}</dt><dd><b>{escape(value)}</b><span>{escape(remark)}</span></dd></div>"
            for value, what, remark in facts
        )
        + "</dl>"
    )


def bars(caption: str, counts: Mapping[str, int], whole: int | None = None, note: str = "") -> str:
    """A table of labels, bars and counts; the longest bar fills its column.

    Args:
        counts: by label, in the order of the page.
        whole: what the percentages are of; without it, the sum of the counts.
        note: remark under the bars.
    """
    whole = sum(counts.values()) if whole is None else whole
    longest = max(counts.values(), default=0) or 1
    wrap = ' class="long"'
    rows = "".join(
        f'<tr><th scope="row"{wrap if len(label) > 24 else ""}>{escape(label)}</th>'
        f'<td class="bar"><i style="width:{100 * count / longest:.1f}%"></i></td>'
        f"<td>{number(count)}</td><td>{share(count, whole)}</td></tr>"
        for label, count in counts.items()
    )
    remark = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<figure class="bars"><table><caption>{escape(caption)}</caption>{rows}</table>{remark}</figure>'


def columns(caption: str, counts: np.ndarray, low: float, high: float, unit: str, note: str = "") -> str:
    """A histogram as a drawing, with its range written under it.

    Args:
        counts: of bins of equal width from `low` to `high`.
    """
    tallest = int(counts.max(initial=0)) or 1
    width = 100 / len(counts)
    drawn = "".join(
        f'<rect x="{i * width:.2f}" y="{40 - 40 * count / tallest:.2f}" width="{0.86 * width:.2f}" '
        f'height="{40 * count / tallest:.2f}"><title>{low + i * (high - low) / len(counts):g} to '
        f"{low + (i + 1) * (high - low) / len(counts):g}{unit}: {number(int(count))}</title></rect>"
        for i, count in enumerate(counts)
        if count
    )
    alt = escape(f"Histogram: {caption}, from {low:g} to {high:g}{unit}. {note}", quote=True)
    middle = (low + high) / 2
    return (
        f'<figure class="columns"><figcaption>{escape(caption)}</figcaption>'
        f'<svg viewBox="0 0 100 40" preserveAspectRatio="none" role="img" aria-label="{alt}">{drawn}</svg>'
        f"<div><span>{signed(low)}{unit}</span><span>{signed(middle)}{unit}</span><span>{signed(high)}{unit}</span></div>"
        f'<p class="note">{escape(note)}</p></figure>'
    )


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, a small remark, and its colour from −1 (less) over 0 (none) to 1 (more)."""

    text: str
    remark: str = ""
    shade: float = 0.0

    def html(self) -> str:
        """Returns the cell; a shade goes with a word for those who do not see it."""
        remark = f"<small>{escape(self.remark)}</small>" if self.remark else ""
        if not self.shade:
            return f"<td>{escape(self.text)}{remark}</td>"
        kind = "more" if self.shade > 0 else "less"
        return (
            f'<td class="{kind}" title="{kind} than expected" style="--shade:{15 + 35 * min(abs(self.shade), 1):.0f}%">'
            f"{escape(self.text)}{remark}</td>"
        )


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[tuple[str, Sequence[Cell]]],
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """A table of coloured cells.

    Args:
        heads: of the columns, the first over the labels of the rows.
        rows: label and cells of each.
        groups: heads over several columns: text and number of columns; the first over the labels.
    """
    above = "".join(
        f'<th colspan="{span}" scope="colgroup">{escape(text)}</th>' if text else f'<td colspan="{span}"></td>'
        for text, span in groups
    )
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(cell.html() for cell in cells)}</tr>'
        for label, cells in rows
    )
    style = "shaded narrow" if len(heads) <= 4 else "shaded"
    return (
        f'<div class="wide"><table class="{style}"><caption>{escape(caption)}</caption>'
        f"<thead>{f'<tr>{above}</tr>' if groups else ''}<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def scale(less: str, more: str) -> str:
    """Explains the colours of a table."""
    return (
        f'<p class="legend note"><span><i class="less" style="--shade:50%"></i>{escape(less)}</span>'
        f'<span><i class="more" style="--shade:50%"></i>{escape(more)}</span></p>'
    )


def facts(caption: str, values: Mapping[str, str]) -> str:
    """A table of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in values.items()
    )
    return f'<table class="facts"><caption>{escape(caption)}</caption>{rows}</table>'


def picture(image: np.ndarray, alt: str, *, flat: bool = False) -> str:
    """An image as part of the page.

    Args:
        image: H×W×3 uint8.
        alt: what it shows, for those who cannot see it.
        flat: the image has few flat colours and is kept without loss.
    """
    data = encode(image, "png") if flat else encode(image, "webp", quality=82)
    kind = "png" if flat else "webp"
    height, width = image.shape[:2]
    text = base64.b64encode(data).decode()
    return (
        f'<img src="data:image/{kind};base64,{text}" width="{width}" height="{height}" alt="{escape(alt, quote=True)}">'
    )


def tile(name: str) -> str:
    """Stands where a picture cannot be shown."""
    return f'<div class="tile" role="img" aria-label="{escape(name, quote=True)}: no preview">no preview</div>'


def exhibit(html: str, label: str, title: str = "") -> str:
    """A picture with its label under it; the title is shown in full when the label is cut."""
    return (
        f'<figure title="{escape(title or label, quote=True)}">{html}<figcaption>{escape(label)}</figcaption></figure>'
    )


def exhibits(items: Iterable[str], style: str = "") -> str:
    """Pictures side by side; the style "pairs" makes them twice as wide, "small" smaller."""
    return f'<div class="exhibits {escape(style)}">{"".join(items)}</div>'


def legend(colours: Iterable[tuple[str, Sequence[int]]]) -> str:
    """Names of colours: text and RGB."""
    return (
        '<p class="legend">'
        + "".join(
            f'<span><i style="background:rgb({int(r)},{int(g)},{int(b)})"></i>{escape(name)}</span>'
            for name, (r, g, b) in colours
        )
        + "</p>"
    )


def strip(pictures: Sequence[str], labels: Sequence[str], title: str) -> str:
    """A row of pictures with a label under each and a title over all."""
    figures = "".join(
        f"<figure>{picture}<figcaption>{escape(label)}</figcaption></figure>"
        for picture, label in zip(pictures, labels, strict=True)
    )
    return f'<div class="strip"><p>{escape(title)}</p><div style="--pictures:{len(pictures)}">{figures}</div></div>'


def heading(text: str, remark: str = "") -> str:
    """A heading within a section."""
    return f"<h3>{escape(text)}{f' <small>{escape(remark)}</small>' if remark else ''}</h3>"


def block(html: str) -> str:
    """Keeps some HTML together."""
    return f"<div>{html}</div>"


def side_by_side(items: Iterable[str]) -> str:
    """As many blocks to a row as there is room for."""
    return f'<div class="side">{"".join(items)}</div>'


_STYLE = Path(__file__).with_name("page.css").read_text()

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>{introduction}</p><nav aria-label="Sections">{links}</nav></header>
<main>
{body}
</main>
<footer>Made by capricious. This file stands alone: it holds its pictures and loads nothing.</footer>
</body>
</html>
"""
