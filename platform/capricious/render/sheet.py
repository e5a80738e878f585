"""Pictures for people: contact sheets, animations, and the annotation of a face made visible."""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from capricious.data.records import Face
from capricious.faces.align import to_crop
from capricious.faces.image import encode
from capricious.faces.label_map import colorize, resize_label_map

GROUND = (247, 243, 235)
INK = (52, 47, 42)
FADED_INK = (128, 119, 108)
HAIRLINE = (222, 214, 201)
"""Colours of a sheet: warm paper, dark and faded brown ink, and the rule under the title."""

CELL = 192
"""Default side of a sheet's cells in pixels."""

MAX_SHEET_PIXELS = 256 * 1024 * 1024

# Open or closed lines through the 68 iBUG landmarks.
_LINES: tuple[tuple[int, int, bool], ...] = (
    (0, 17, False),  # jaw
    (17, 22, False),
    (22, 27, False),
    (27, 31, False),  # bridge of the nose
    (31, 36, False),
    (36, 42, True),
    (42, 48, True),
    (48, 60, True),  # outer lips
    (60, 68, True),
)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    *,
    cell: int = CELL,
    title: str = "",
    caption: str = "",
) -> np.ndarray:
    """Lays pictures out in rows and columns with labels, like a museum's contact sheet.

    Args:
        rows: pictures H×W×3 or H×W uint8 of any size, each fitted into its cell; None leaves a cell
            empty, and rows may differ in length.
        row_labels: one per row, or none at all.
        column_labels: one per column, or none at all.
        cell: side of a cell in pixels, at least 32; all type and margins are sized by it.
        title: above the sheet.
        caption: in small type below it, e.g. where the pictures come from.

    Returns:
        H×W×3 uint8.

    Raises:
        ValueError: no picture, a number of labels that does not fit, a picture of another shape or
            dtype, or a sheet of more than MAX_SHEET_PIXELS; the message says which.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("a contact sheet needs at least one picture")
    if cell < 32:
        raise ValueError(f"cell must be at least 32 pixels, found: {cell}")
    for name, labels, count in (("row", row_labels, len(rows)), ("column", column_labels, columns)):
        if labels and len(labels) != count:
            raise ValueError(f"{count} {name}s need {count} {name} labels or none, found: {len(labels)}")

    gap, margin = max(2, cell // 16), max(16, cell // 3)
    label_font, title_font = _font(max(10, cell // 10)), _font(max(14, cell // 5))
    caption_font = _font(max(9, cell // 13))
    line = int(1.35 * label_font.size)
    # Labels wrap within 1.5 cells, so one long title does not push the pictures off the page.
    row_lines = [_wrap(label, label_font, 1.5 * cell, cell // line) for label in row_labels]
    longest = max((label_font.getlength(text) for lines in row_lines for text in lines), default=0)
    column_lines = [_wrap(label, label_font, cell, 2) for label in column_labels]
    left = margin + (int(longest) + 2 * gap if row_labels else 0)
    width = left + columns * (cell + gap) - gap + margin
    title_lines = _wrap(title, title_font, width - 2 * margin, 2) if title else []
    caption_lines = _wrap(caption, caption_font, width - 2 * margin, 3) if caption else []
    title_step, caption_step = int(1.25 * title_font.size), int(1.4 * caption_font.size)
    head = len(title_lines) * title_step + (3 * gap if title_lines else 0)
    top = margin + head + max((len(lines) for lines in column_lines), default=0) * line
    top += gap if column_lines else 0
    foot = len(caption_lines) * caption_step + (2 * gap if caption_lines else 0)
    height = top + len(rows) * (cell + gap) - gap + foot + margin
    if width * height > MAX_SHEET_PIXELS:
        raise ValueError(
            f"the sheet would have {width:,} × {height:,} pixels, allowed are {MAX_SHEET_PIXELS:,} in all; "
            "use smaller cells or several sheets"
        )

    sheet = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(sheet)
    for i, text in enumerate(title_lines):
        draw.text((margin, margin + i * title_step), text, INK, title_font, anchor="la")
    if title_lines:
        rule = margin + head - int(1.5 * gap)
        draw.line((margin, rule, width - margin - 1, rule), HAIRLINE, max(1, cell // 160))
    for c, lines in enumerate(column_lines):
        centre = left + c * (cell + gap) + cell / 2
        for i, text in enumerate(reversed(lines)):
            draw.text((centre, top - gap - i * line), text, FADED_INK, label_font, anchor="md")
    for r, lines in enumerate(row_lines):
        middle = top + r * (cell + gap) + cell / 2
        for i, text in enumerate(lines):
            offset = (i - (len(lines) - 1) / 2) * line
            draw.text((margin, middle + offset), text, INK, label_font, anchor="lm")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            if picture is not None:
                fitted = _fit(picture, cell)
                x = left + c * (cell + gap) + (cell - fitted.width) // 2
                y = top + r * (cell + gap) + (cell - fitted.height) // 2
                sheet.paste(fitted, (x, y))
    for i, text in enumerate(caption_lines):
        y = height - margin - (len(caption_lines) - i) * caption_step
        draw.text((margin, y), text, FADED_INK, caption_font, anchor="la")
    return np.array(sheet)


def cell_for(rows: int, columns: int) -> int:
    """Returns the side of the largest cells, at most CELL, with which a sheet of so many fits into MAX_SHEET_PIXELS."""
    pitch = math.sqrt(MAX_SHEET_PIXELS / ((rows + 5) * (columns + 5)))  # labels and margins are less than 5 cells
    return min(CELL, int(pitch * 16 / 17))  # gaps are a sixteenth of a cell


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)  # Aileron, which comes within Pillow: no font file to ship
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ValueError("this Pillow was built without FreeType; install Pillow from PyPI")
    return font


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    """Breaks a text into at most `most` lines of `width` pixels, ending in "…" if it does not fit."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    if words:
        lines[-1] += " …"
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(line) <= width:
        return line
    stem = line.removesuffix("…").rstrip()
    while stem and font.getlength(stem + "…") > width:
        stem = stem[:-1]
    return stem.rstrip() + "…"


def _picture(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"a picture must be H×W×3 or H×W uint8, found: {pixels.shape} {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _fit(pixels: np.ndarray, cell: int) -> Image.Image:
    picture = _picture(pixels)
    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def gif(
    frames: Sequence[np.ndarray],
    seconds_per_frame: float | Sequence[float] = 0.25,
    *,
    loop: bool = True,
    ping_pong: bool = False,
) -> bytes:
    """Makes an animation, for instance of one sitter through the ages.

    All frames share one palette, chosen from all of them: the background does not flicker.

    Args:
        frames: H×W×3 uint8, all of one size.
        seconds_per_frame: one time for all or one for each frame, 0.02…60; GIF counts in 1/100 s.
        loop: repeat for ever, or play once.
        ping_pong: append the inner frames in reverse order, so that the loop has no jump.

    Raises:
        ValueError: no frame, differing sizes, or a time that is too short or missing.
    """
    if not frames or any(frame.shape != frames[0].shape for frame in frames):
        raise ValueError(f"a gif needs frames of one size, found: {sorted({f.shape for f in frames})}")
    times = [seconds_per_frame] * len(frames) if isinstance(seconds_per_frame, int | float) else seconds_per_frame
    if len(times) != len(frames) or not all(0.02 <= time <= 60 for time in times):
        raise ValueError(f"each of {len(frames)} frames needs a time of 0.02…60 s, found: {times}")
    order = list(range(len(frames)))
    if ping_pong:
        order += order[-2:0:-1]
    pictures = [_picture(frame) for frame in frames]
    palette = _shared_palette(pictures)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures]
    out = io.BytesIO()
    options: dict[str, object] = {"loop": 0} if loop else {}
    indexed[0].save(
        out,
        "GIF",
        save_all=True,
        append_images=[indexed[i] for i in order[1:]],
        duration=[round(100 * times[i]) * 10 for i in order],
        optimize=False,  # the palette has no colour to spare
        **options,
    )
    return out.getvalue()


def _shared_palette(pictures: list[Image.Image]) -> Image.Image:
    """Chooses 256 colours for all frames by median cut and k-means, over a sample: k-means is slow.

    From 3,000 pixels instead of 20,000, dithered frames depart from theirs by 13 % more and take a sixth of the time.
    """
    step = max(1, int(np.sqrt(len(pictures) * pictures[0].width * pictures[0].height / 3000)))
    samples = np.concatenate([np.asarray(picture)[::step, ::step] for picture in pictures])
    return Image.fromarray(samples).quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)


def annotation_picture(face: Face, size: int = 512) -> list[np.ndarray]:
    """Shows what was found of a face: the crop, its landmarks, and its label map laid over it.

    Args:
        face: as the Annotator returns it.
        size: side of each picture in pixels; the crop is enlarged to it.

    Returns:
        Three size×size×3 uint8 pictures, fit to be one row of a contact sheet.
    """
    crop = _picture(face.image).resize((size, size), Image.Resampling.LANCZOS)
    fine = 2 * size  # drawn at twice the size, then reduced: Pillow's lines have no antialiasing
    canvas = crop.resize((fine, fine), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    points = [(float(x), float(y)) for x, y in to_crop(face.landmarks, face.quad, fine)]
    for start, stop, closed in _LINES:
        line = points[start:stop] + ([points[start]] if closed else [])
        draw.line(line, (250, 250, 245), max(1, fine // 250), joint="curve")
    radius = max(2, fine // 125)
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), (255, 196, 60), (60, 40, 0))
    landmarks = canvas.resize((size, size), Image.Resampling.LANCZOS)
    labels = Image.fromarray(colorize(resize_label_map(face.label_map, size)))
    return [np.array(crop), np.array(landmarks), np.array(Image.blend(crop, labels, 0.55))]


def save(picture: np.ndarray | bytes, path: str | os.PathLike[str]) -> Path:
    """Writes a picture (by the file's suffix: png, jpg, jpeg or webp) or ready bytes such as a gif's.

    The file appears whole or not at all. Missing folders are made.

    Raises:
        ValueError: the suffix is none of these.
    """
    path = Path(path)
    if not isinstance(picture, bytes):
        suffix = path.suffix.lower().removeprefix(".")
        picture = encode(picture, {"jpg": "jpeg"}.get(suffix, suffix))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(picture)
            file.close()
            os.chmod(file.name, 0o644)  # a temporary file is private; a result is not
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return path
