"""The report on a prepared dataset: true numbers, safe HTML, and nothing that can make it fail for one picture."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_tools import made_up_portraits

from capricious.data import duplicates
from capricious.data.collections import Source
from capricious.data.collections.parts import write_part
from capricious.data.prepared import write_manifest, write_shard
from capricious.data.records import Portrait
from capricious.errors import CapriciousError
from capricious.evaluate.confounding import adjusted_residuals, confounds
from capricious.evaluate.page import share
from capricious.evaluate.prepared_report import write_report
from capricious.evaluate.prepared_summary import DECADE_NAMES, MEASURES, Sample, summarize
from capricious.faces.attributes import EMOTIONS, GENDERS, GLASSES, Attributes

HOSTILE = "/pictures/<script>alert('1')</script> & \"x\" onload=y.jpg"
PLAN = {"source": "made up", "annotator": {"parser": "bisenet", "threads": 1}}


def portraits(count: int, seed: int = 0) -> list[Portrait]:
    """Made-up portraits with all that a report counts; every fourth picture shows two faces."""
    random = np.random.default_rng(seed)
    made: list[Portrait] = []
    for i, portrait in enumerate(made_up_portraits(count, seed)):
        second = i % 4 == 1
        attributes = Attributes(
            age=None if i % 7 == 3 else float(random.integers(0, 120)),
            gender=None if i % 5 == 4 else float(random.random()),
            glasses=None if i % 6 == 5 else str(random.choice(GLASSES)),
            smile=None if i % 2 else float(random.random()),
            emotion=None if i % 3 else tuple(random.dirichlet(np.ones(len(EMOTIONS)))),
        )
        made.append(
            replace(
                portrait,
                id=f"{seed}-{i}",
                source_uri=made[-1].source_uri if second else f"/pictures/{seed}-{i}.png",
                face=int(second),
                split="test" if i % 9 == 0 else "train",
                attributes=attributes,
                attribute_source=attributes.sources(Attributes(age=attributes.age)),
                pose=random.normal(0, 40, 3).astype(np.float32),
                detection_score=float(random.random()),
                resolution_score=float(random.uniform(0, 8)),
                perceptual_hash=random.bytes(32),
                license="CC0" if i % 2 else "",
            )
        )
    return made


def reject(uri: str, stage: str = "detect", reason: str = "no-face", detail: str = "no face found") -> dict[str, str]:
    return {"uri": uri, "stage": stage, "reason": reason, "detail": detail}


def write_dataset(folder: Path, shards: list[tuple[list[Portrait], list[dict[str, str]]]], seconds=None) -> str:
    for number, (rows, rejects) in enumerate(shards):
        pictures = len({row.source_uri for row in rows}) + len(rejects)
        write_part(str(folder), number, [Source(row["uri"]) for row in rejects])
        write_shard(str(folder), number, rows, rejects, pictures=pictures, seconds=seconds or {})
    write_manifest(str(folder), len(shards), PLAN, 64)
    return str(folder)


class Page(HTMLParser):
    """What a browser would see: text, elements, and the attributes that load something."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, html: str):
        super().__init__()
        self.text, self.tags, self.links, self.open = "", Counter(), [], []
        self.images: list[dict[str, str | None]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "elements are not nested"

    def handle_data(self, data):
        self.text += data + " " if self.open and self.open[-1] != "style" else ""

    def words(self) -> str:
        return " ".join(self.text.split())


def report_of(out: str) -> Page:
    write_report(out)
    return Page((Path(out) / "report.html").read_text())


def test_the_summary_equals_an_independent_count(tmp_path):
    shards = [(portraits(40, seed), [reject(f"/r/{seed}-{i}") for i in range(seed)]) for seed in range(3)]
    summary = summarize(write_dataset(tmp_path, shards, {"shard": 2.0, "detect": 0.5}))
    everyone = [portrait for rows, _ in shards for portrait in rows]

    assert summary.portraits == 120 and summary.rejects == 3
    assert summary.pictures == len({p.source_uri for p in everyone}) + 3
    assert summary.seconds == pytest.approx({"shard": 6.0, "detect": 1.5})
    faces = Counter(Counter(p.source_uri for p in everyone).values())
    assert summary.faces_per_picture() == {**faces, 0: 3}
    assert summary.licenses == Counter(p.license for p in everyone)

    for portrait in everyone:  # counts down to zero
        known = portrait.attributes
        decade = len(DECADE_NAMES) if known.age is None else min(int(known.age) // 10, 10)
        gender = 2 if known.gender is None else int(known.gender > 0.5)
        glasses = 3 if known.glasses is None else GLASSES.index(known.glasses)
        summary.sitters[decade, gender, glasses, int(portrait.split == "test")] -= 1
        if known.smile is not None:
            summary.smiles[int(known.smile * 5)] -= 1
        if known.emotion is not None:
            summary.emotions[known.emotion.index(max(known.emotion))] -= 1
        for name, source in portrait.attribute_source.items():
            summary.sources[name][source] -= 1
    assert not summary.sitters.any() and not summary.smiles.any() and not summary.emotions.any()
    assert not any(count for counter in summary.sources.values() for count in counter.values())

    for name, values in {
        "yaw": [p.pose[0] for p in everyone],
        "resolution_score": [p.resolution_score for p in everyone],
    }.items():
        measure = MEASURES[name]
        inside = [min(max(float(value), measure.low), measure.high) for value in values]
        edges = np.linspace(measure.low, measure.high, measure.bins + 1)
        expected = [sum(a <= v < b for v in inside) for a, b in pairwise(edges)]
        expected[-1] += sum(v == measure.high for v in inside)
        assert summary.measures[name].tolist() == expected


def test_the_page_tells_what_was_counted(tmp_path):
    rows = portraits(50)
    # The same picture once more, a little changed, on the other side of the split.
    copy = replace(rows[0], id="copy", split="train", source_uri="/pictures/copy.png", face=0)
    copy = replace(copy, perceptual_hash=bytes([rows[0].perceptual_hash[0] ^ 3]) + rows[0].perceptual_hash[1:])
    page = report_of(
        write_dataset(tmp_path, [(rows, [reject("/r/a.jpg")]), ([copy], [])], {"shard": 1.0, "parse": 0.75})
    )
    words = page.words()
    pictures = len({p.source_uri for p in rows}) + 2
    assert f"pictures {pictures} " in words and "portraits 51 " in words and "rejected 1 " in words
    assert "kept for testing 6 " in words
    assert "groups of near-duplicates 1 1 across training and test" in words
    assert "1 pair lies across training and test" in words
    assert "0-0.png · test" in words and "copy.png · train" in words
    assert "The strongest confound: " in words or "nearly independent: " in words
    assert f"parse {round(1500 / pictures)} 75 %" in words.replace("\N{NO-BREAK SPACE}", " ")
    assert "bisenet" in words and "made up" in words and "CC0 25" in words and "not stated 26" in words
    assert page.tags["svg"] == len(MEASURES)
    assert len(page.images) == 24 * 2 + 2  # crops, label maps, copies; the reject has a tile
    assert "hashes differ" not in words


def test_the_page_says_so_where_there_are_too_many_portraits_for_a_whole_search(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "COMPARISONS", 1)  # in place of 20 million portraits
    words = report_of(write_dataset(tmp_path, [(portraits(50), [])], {"shard": 1.0})).words()
    assert "No two portraits look like copies of one picture." in words
    assert "only those were compared whose hashes differ in at most 17 of 256 bits" in words


def test_tables_count_each_group_once(tmp_path):
    def sitters(count: int, split: str, **known) -> list[Portrait]:
        attributes = Attributes(**known)
        return [replace(p, split=split, attributes=attributes) for p in portraits(count, len(known["glasses"]))]

    rows = [
        *sitters(12, "train", age=25, gender=0.0, glasses="none"),
        *sitters(4, "test", age=29.9, gender=0.2, glasses="none"),
        *sitters(16, "train", age=71, gender=1.0, glasses="reading"),
        *sitters(3, "train", age=104, gender=0.9, glasses="sun"),
    ]
    words = report_of(write_dataset(tmp_path, [(rows, [])])).words().replace("\N{NO-BREAK SPACE}", " ")
    assert "Age none glasses sun none glasses sun all 20–29 100 % 16 0 % 0 0 % 0 0 % 0 0 % 0 0 % 0 16 70–79" in words
    assert "70–79 0 % 0 0 % 0 0 % 0 0 % 0 100 % 16 0 % 0 16 100+ 0 0 0 0 0 3 3 all 46 % 16" in words
    assert "Age female male 20–29 12 + 4 25 % – 70–79 – 16 + 0 0 % 100+ – 3 + 0" in words
    assert "There are none of: male 70–79, male 100+." in words
    assert "of all sitters, 46 %." in words and "Cramér's V of 1.00" in words


def test_hostile_names_stay_text_and_nothing_is_loaded(tmp_path):
    rows = [replace(row, source_uri=HOSTILE, license="<img src=x>", face=i) for i, row in enumerate(portraits(3))]
    hostile = [reject(HOSTILE, reason="<b>", detail="</p><iframe src='http://example.org'>"), reject("http://a/b.png")]
    out = write_dataset(tmp_path, [(rows, hostile)])
    page = report_of(out)
    assert not {"script", "iframe", "link", "object", "b>"} & set(page.tags)
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "url(" not in (tmp_path / "report.html").read_text()
    assert page.open == [] and "<img src=x>" in page.words()
    assert all(image["alt"] for image in page.images)


def test_rejects_are_shown_where_they_can_be_read(tmp_path):
    def picture(name: str, format: str = "PNG", size=(300, 200)) -> str:
        buffer = io.BytesIO()
        Image.new("RGB", size, (200, 30, 60)).save(buffer, format)
        (tmp_path / name).write_bytes(buffer.getvalue())
        return str(tmp_path / name)

    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "cut.jpg").write_bytes(Path(picture("whole.jpg", "JPEG")).read_bytes()[:400])
    unreadable = [str(tmp_path / "text.png"), str(tmp_path / "cut.jpg"), "/nowhere.png", "ftp://far/away.png", ""]
    shown = [picture("good.png"), picture("tiny.png", size=(4, 4))]
    out = write_dataset(tmp_path / "out", [([], [reject(uri) for uri in unreadable + shown])])
    page = report_of(out)
    # Six of the seven are chosen by hash; the one left out may be of either kind.
    tiles = page.text.count("no preview")
    assert tiles + len(page.images) == 6 and len(page.images) >= 1
    assert {image["alt"] for image in page.images} <= {"Rejected picture good.png", "Rejected picture tiny.png"}
    assert "no face 6 of 7" in page.words() and "rejected 7" in page.words()


def test_a_huge_reject_is_not_read(tmp_path):
    with open(tmp_path / "huge.tif", "wb") as file:
        file.truncate(2**34)  # sparse: 16 GB
    page = report_of(write_dataset(tmp_path / "out", [([], [reject(str(tmp_path / "huge.tif"))])]))
    assert page.images == [] and "no preview" in page.text


def test_an_empty_dataset_has_a_report(tmp_path):
    page = report_of(write_dataset(tmp_path, [([], [])]))
    assert "pictures 0" in page.words() and "No portrait came of this collection" in page.words()


def test_sitters_of_whom_nothing_is_known(tmp_path):
    rows = [
        replace(p, attributes=Attributes(), attribute_source=Attributes().sources(Attributes())) for p in portraits(3)
    ]
    words = report_of(write_dataset(tmp_path, [(rows, [])])).words()
    assert words.count("Not known of any portrait.") == 5
    assert "not known of enough sitters" in words


def test_the_same_dataset_gives_the_same_bytes(tmp_path):
    rows, rejects = portraits(60), [reject(f"/r/{i}") for i in range(20)]
    pages = []
    for name in ("one", "two"):
        write_report(write_dataset(tmp_path / name, [(rows[:30], rejects), (rows[30:], [])]))
        pages.append((tmp_path / name / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_an_incomplete_dataset_is_refused(tmp_path):
    write_shard(str(tmp_path), 0, [], [], pictures=0, seconds={})
    with pytest.raises(CapriciousError, match="not a complete prepared dataset"):
        write_report(str(tmp_path))


def test_a_sample_depends_on_what_is_offered_and_not_on_the_order():
    keys = [f"key {i}" for i in range(200)]
    there, back = Sample(7), Sample(7)
    for key in keys:
        there.offer(key, key)
    for key in reversed(keys):
        back.offer(key, key)
    assert there.items() == back.items() and len(set(there.items())) == 7
    assert there.items() != sorted(keys)[:7]


def test_a_confound_is_found_and_told_in_numbers():
    # 100 women of whom 90 are young, 100 men of whom 20 are; glasses by chance alone.
    table = np.zeros((2, 2, 2), int)
    table[0, 0], table[1, 0], table[0, 1], table[1, 1] = 45, 5, 10, 40
    found = confounds(table)[0]
    assert found.axes == (0, 1) and (found.group, found.outcome) in ((0, 0), (1, 1))
    # Of a 2×2 table, V is the correlation of the two (here before the correction of about 1/n).
    young, male = np.repeat([0, 1, 0, 1], [90, 10, 20, 80]), np.repeat([0, 1], [100, 100])
    assert found.strength == pytest.approx(abs(np.corrcoef(young, male)[0, 1]), abs=0.01)
    assert found.share == pytest.approx(80 / 90 if found.group else 90 / 110)
    assert found.expected == pytest.approx(0.5)
    assert confounds(table)[1].strength == confounds(table)[2].strength == 0.0


def test_what_goes_together_by_chance_alone_is_near_zero():
    random = np.random.default_rng(0)
    for count in (30, 300, 3000):
        strengths = []
        for _ in range(50):
            table = np.zeros((len(DECADE_NAMES), len(GENDERS), 3), int)
            np.add.at(
                table, (random.integers(0, 11, count), random.integers(0, 2, count), random.integers(0, 3, count)), 1
            )
            strengths += [found.strength for found in confounds(table)]
        assert np.mean(strengths) < 2 / np.sqrt(count)


def test_adjusted_residuals_have_unit_variance_by_chance():
    random = np.random.default_rng(0)
    weights = np.outer([0.7, 0.2, 0.1], [0.5, 0.4, 0.1])
    tables = [random.multinomial(2000, weights.ravel()).reshape(3, 3) for _ in range(500)]
    residuals = np.stack([adjusted_residuals(table) for table in tables])
    assert np.abs(residuals.mean(0)).max() < 0.15
    assert np.abs(residuals.std(0) - 1).max() < 0.12
    assert not adjusted_residuals(np.array([[5, 0], [7, 0]])).any()


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "–"), (0, 9, "0 %"), (9, 9, "100 %"), (1, 3, "33 %"), (1, 50, "2.0 %"), (1, 9999, "under 0.1 %"),
     (9999, 10000, "99.9 %"), (2599, 2600, "99.9 %")],
)  # fmt: skip
def test_shares_never_round_few_to_none_nor_most_to_all(part, whole, text):
    assert share(part, whole).replace("\N{NO-BREAK SPACE}", " ") == text
