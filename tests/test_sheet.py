"""Contact sheets, animations and annotation pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from capricious.data.records import Face
from capricious.faces.align import align, to_source
from capricious.faces.attributes import Attributes
from capricious.faces.image import decode
from capricious.faces.label_map import PALETTE, SKIN
from capricious.render.sheet import CELL, GROUND, annotation_picture, cell_for, contact_sheet, gif, save

RED, BLUE = np.full((40, 40, 3), (220, 0, 0), np.uint8), np.full((80, 40, 3), (0, 0, 220), np.uint8)


def columns_of(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Bounding box (left, top, right, bottom) of a colour."""
    y, x = np.nonzero((sheet == colour).all(-1))
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def test_pictures_stand_in_their_cells_on_a_warm_ground() -> None:
    sheet = contact_sheet([[RED, None], [None, BLUE]], ["a", "b"], ["c", "d"], cell=64, title="Ages")
    assert sheet.dtype == np.uint8 and tuple(sheet[0, 0]) == GROUND
    left, top, right, bottom = columns_of(sheet, (220, 0, 0))
    assert (right - left, bottom - top) == (64, 64)
    left2, top2, right2, bottom2 = columns_of(sheet, (0, 0, 220))
    assert (right2 - left2, bottom2 - top2) == (32, 64)  # fitted, not stretched
    assert left2 >= right and top2 >= bottom
    assert (left2 + right2) / 2 - (left + right) / 2 == top2 - top == 64 + 64 // 16


def test_every_text_leaves_ink() -> None:
    bare = contact_sheet([[RED]], cell=96)
    for option in ("row_labels", "column_labels", "title", "caption"):
        text = "Ariosto"
        sheet = contact_sheet([[RED]], cell=96, **{option: [text] if "labels" in option else text})
        ink = ((sheet != GROUND).any(-1) & (sheet[..., 0].astype(int) < 180)).sum()
        assert sheet.size > bare.size and ink > 10, option


def test_long_labels_are_wrapped_and_cut_instead_of_widening_the_sheet() -> None:
    long = "Portrait of a gentleman in a fur coat with a small dog and an uncommonly long title " * 5
    sheet = contact_sheet([[RED]], [long], ["x" * 500], cell=96, title=long, caption=long)
    assert sheet.shape[1] < 96 * 5
    assert (sheet[:, :8] == GROUND).all() and (sheet[:, -8:] == GROUND).all()


def test_ragged_rows_and_grey_pictures_are_laid_out() -> None:
    assert contact_sheet([[RED, RED, RED], [RED[..., 0]]], cell=64).shape[1] > 3 * 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([],), "at least one picture"),
        (([[]],), "at least one picture"),
        (([[RED]], ["a", "b"]), "1 rows need 1 row labels or none, found: 2"),
        (([[RED]], [], ["a", "b"]), "1 columns need 1 column labels or none, found: 2"),
        (([[RED / 255.0]],), "uint8"),
        (([[np.zeros((4, 4, 4), np.uint8)]],), "H×W×3"),
        (([[RED] * 2000] * 2000,), "smaller cells or several sheets"),
    ],
)
def test_what_cannot_be_laid_out_is_named(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        contact_sheet(*arguments)


def frames_of(data: bytes) -> tuple[list[np.ndarray], list[int], Image.Image]:
    image = Image.open(io.BytesIO(data))
    frames, times = [], []
    for i in range(image.n_frames):
        image.seek(i)
        frames.append(np.asarray(image.convert("RGB")))
        times.append(image.info["duration"])
    return frames, times, image


def test_a_gif_plays_the_frames_in_order_and_for_ever() -> None:
    photo = np.ascontiguousarray(skimage.data.astronaut()[::4, ::4])
    ages = [photo, np.clip(photo * 0.8, 0, 255).astype(np.uint8), 255 - photo]
    frames, times, image = frames_of(gif(ages, 0.3))
    assert image.info["loop"] == 0 and times == [300, 300, 300]
    for found, meant in zip(frames, ages, strict=True):
        assert np.abs(found.astype(int) - meant).mean() < 6
    assert "loop" not in frames_of(gif(ages, loop=False))[2].info


def test_ping_pong_goes_there_and_back_without_stopping_at_the_ends() -> None:
    steps = [np.full((20, 20, 3), level, np.uint8) for level in (10, 90, 170, 250)]
    frames, times, _ = frames_of(gif(steps, [1.0, 0.1, 0.2, 2.0], ping_pong=True))
    assert [round(float(frame.mean()), -1) for frame in frames] == [10, 90, 170, 250, 170, 90]
    assert times == [1000, 100, 200, 2000, 200, 100]


def test_a_colour_that_stays_does_not_flicker() -> None:
    """A background that is the same in all frames is the same in the file, whatever else changes."""
    rng = np.random.default_rng(0)
    frames = [np.full((64, 64, 3), (90, 80, 60), np.uint8) for _ in range(4)]
    for frame in frames:
        frame[40:] = rng.integers(0, 256, (24, 64, 3))
    played = frames_of(gif(frames))[0]
    assert all(np.array_equal(frame[:40], played[0][:40]) for frame in played)
    assert np.abs(played[0][:40].astype(int) - [90, 80, 60]).max() <= 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([],), "one size"),
        (([RED, BLUE],), "one size"),
        (([RED], 0.0), "0.02…60"),
        (([RED], 350), "0.02…60"),  # milliseconds
        (([RED], [1.0, 1.0]), "each of 1 frames"),
    ],
)
def test_a_wrong_animation_is_named(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gif(*arguments)


def test_annotation_pictures_show_crop_landmarks_and_classes() -> None:
    photo = np.ascontiguousarray(skimage.data.astronaut())
    quad = np.array([[124, 16], [124, 216], [324, 216], [324, 16]], np.float32)
    at = np.random.default_rng(0).uniform(20, 44, (68, 2))
    at[8] = (32, 60)  # the chin, away from the rest
    labels = np.full((64, 64), SKIN, np.uint8)
    landmarks = to_source(at, quad, 64).astype(np.float32)
    face = Face(align(photo, quad, 64), labels, landmarks, quad, Attributes(), {}, 1, 1, np.zeros(3), 1, 1)
    crop, drawn, coloured = annotation_picture(face, size=256)
    assert crop.shape == drawn.shape == coloured.shape == (256, 256, 3)
    changed = (np.abs(crop.astype(int) - drawn) > 60).any(-1)
    assert changed[60 * 4, 32 * 4] and not changed[:60].any() and not changed[250:].any()
    assert np.abs(coloured - (0.45 * crop + 0.55 * PALETTE[SKIN])).max() <= 1.5


def test_save_writes_by_suffix_and_leaves_nothing_else(tmp_path: Path) -> None:
    for name in ("a.png", "deep/b.webp", "c.jpg"):
        path = save(RED, tmp_path / name)
        assert decode(path.read_bytes(), name=name).shape == RED.shape
    assert save(gif([RED]), tmp_path / "d.gif").read_bytes().startswith(b"GIF89a")
    with pytest.raises(ValueError, match="png, jpeg, webp or tiff"):
        save(RED, tmp_path / "e.bmp")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.png", "b.webp", "c.jpg", "d.gif"]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (12, 10), (30, 40), (300, 9), (5, 129)])
def test_the_sheet_of_a_crowd_has_smaller_cells(rows: int, columns: int, monkeypatch) -> None:
    most = 8 * 1024 * 1024
    monkeypatch.setattr("capricious.render.sheet.MAX_SHEET_PIXELS", most)
    labels, heads = ["face 12 · with glasses, smiling"] * rows, ["of many words, original"] * columns
    cell = cell_for(rows, columns)
    sheet = contact_sheet([[RED] * columns] * rows, labels, heads, cell=cell, caption="where it comes from " * 99)
    assert cell == CELL or sheet.shape[0] * sheet.shape[1] > most / 2
