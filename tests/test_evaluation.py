"""The whole evaluation: rows to report and page in closed forms, then the job on real Ray with random weights."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_tools import shaken, tiny
from skimage.data import astronaut, coffee
from test_prepared_report import Page

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.annotate.crop_reader import CropReader
from capricious.cluster.evaluate import EvaluateConfig, bundle_names, evaluate
from capricious.data.prepared import PreparedDataset
from capricious.data.records import PORTRAIT_SCHEMA, picture_names
from capricious.data.tables import read_table, write_table
from capricious.errors import CapriciousError, ConfigError
from capricious.evaluate import checkpoint_scorer, measure, scores
from capricious.evaluate.checkpoint_scorer import CheckpointScorer, harmonic_mean
from capricious.evaluate.evaluation import BundleInfo, evaluation, printed, subjects_of
from capricious.evaluate.evaluation_report import report_page
from capricious.evaluate.measure import REAL, SCHEMA
from capricious.evaluate.subjects import IDENTITY
from capricious.faces.image import encode
from capricious.faces.label_map import EYES, MOUTH
from capricious.model.bundle import DEFAULT, save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator

AGES = [10.0, 30.0, 50.0, 70.0]
PICTURE = encode(np.full((16, 16, 3), 90, np.uint8), "webp")
MAP = encode(np.ones((16, 16), np.uint8), "png")


def rows_of(portraits: int, slope: float, cosine: float, name: str = "made up", seed: int = 0) -> list[dict]:
    """Measurements of a subject whose estimated ages follow 40 + slope · (request − 40), with noise."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(portraits):
        features = random.normal(size=(1 + len(AGES), 1280)).astype(np.float16)
        embedding = random.normal(size=1024)
        about = {
            "portrait": f"{i:064x}-0",
            "source_uri": f"/pictures/<b>{i}.jpg",
            "medium": "painting" if i % 4 == 0 else "photograph",
            "age": None if i % 10 == 9 else 20.0 + i % 50,
            "age_source": "label" if i % 2 else "estimated",
            "gender": float(i % 2),
            "gender_source": "label" if i % 4 < 2 else "estimated",
            "given_map": MAP,
            "embedding": (embedding / np.linalg.norm(embedding)).astype(np.float16).tobytes(),
        }

        # Wrong about every fourth sitter, as about his renders: about half of those with a label.
        read = about["gender"] if i % 4 else 1.0 - about["gender"]

        def row(
            subject: str, ages: np.ndarray, cosines: float, shown: np.ndarray, about: dict = about, read: float = read
        ) -> dict:
            count = len(ages)
            values = {
                "estimated_age": ages,
                "male": np.full(count, read),
                "cosine": np.full(count, cosines),
                "dlib_distance": np.full(count, 0.2),
                "glasses": np.zeros(count),
                "region_iou": np.full(count, 0.8),
                "part_iou": np.full(count, 0.7),
                "background_change": np.zeros(count),
                "features": shown.tobytes(),
                "pictures": [PICTURE] * count,
                "maps": [MAP] * (count - 1) + [None],
            }
            known = {name: None for name in SCHEMA.names}
            return {**known, **about, "subject": subject, **values, "roughness": 1.5, "psnr": 20.0, "ssim": 0.5}

        estimated = 40 + slope * (np.array([40.0, *AGES]) - 40) + random.normal(0, 1.0, 1 + len(AGES))
        rows.append(row(REAL, np.array([(about["age"] or 30.0) + 3.0]), 1.0, features[:1]))
        rows.append(row(name, estimated, cosine, features))
    return rows


def report_of(rows: list[dict], seen: int | None = 0, missing: dict | None = None, **more) -> dict:
    # Asked for 25 to 75 in training; what counts are the ages that its portraits had, as where renders are marked.
    swap = {"min_age": 25.0, "max_age": 75.0}
    info = {"training": {"config": {"swap": swap}, "images_seen": 5}, "learnt": {"counts": {}, "ages": [20.0, 60.0]}}
    bundle = BundleInfo("made up", "ab" * 32, info, seen)
    return evaluation(rows, {"ages": AGES, "resolution": 8}, [bundle], missing or {}, **more)


def test_the_report_says_what_was_put_into_the_rows():
    report = json.loads(json.dumps(report_of(rows_of(40, 0.5, 0.9)), allow_nan=False))
    found = {name: figure["value"] for name, figure in report["subjects"]["made up"]["groups"]["all"].items()}
    assert found["age/slope"] == pytest.approx(0.5, abs=0.02)
    assert found["identity/cosine"] == pytest.approx(0.9)
    assert found["identity/accepted"] == found["identity/dlib"] == found["mask/found"] == 1.0
    assert found["leakage/gender"] == found["leakage/glasses"] == found["leakage/background"] == 0.0
    assert found["leakage/label"] == 0.5
    assert found["reconstruction/psnr"] == 20.0 and found["mask/regions"] == pytest.approx(0.8)
    assert found["quality/kid"] == pytest.approx(0.0, abs=1e-6)  # the first render has the original's features
    baselines = {name: s["groups"]["all"]["age/slope"]["value"] for name, s in report["subjects"].items()}
    assert baselines == {IDENTITY: 0.0, "made up, reconstruction only": 0.0, "made up": found["age/slope"]}
    assert report["judge_on_real"]["all"]["bias"]["value"] == pytest.approx(3.0)
    assert report["judge_on_real"]["all"]["mae"]["n"] == report["labelled_ages"] == 16
    # Real people are read 3 years too old, and nobody is about 10 or 70: 35 and 45 against 33 and 53.
    assert report["perfect"]["readings"] == [None, pytest.approx(33.0, abs=1.0), pytest.approx(53.0, abs=1.0), None]
    assert report["perfect"]["slope"] == pytest.approx(1.0, abs=0.05)
    assert report["perfect"]["mae"] == pytest.approx(3.0)
    assert found["age/gap"] == pytest.approx((2 + 8) / 2, abs=1.0)
    assert report["sitters"]["painting"] == 10 and report["sitters"]["all"] == 40
    assert report["bundles"]["made up"]["extrapolated_ages"] == [10.0, 70.0]
    assert report["extractors"]["faceres"]["sha256"].startswith("2c7d2d62")
    curve = [point["value"] for point in report["subjects"]["made up"]["age_curve"]]
    assert curve == pytest.approx([25.0, 35.0, 45.0, 55.0], abs=0.6)
    assert "age slope" in printed(report) and "0.50" in printed(report)


def test_the_page_warns_and_shows():
    rows = rows_of(12, 0.3, 0.8)
    page = Page(report_page(report_of(rows, seen=7, missing={"dlib": "weight dlib cannot be had\nmore"}), rows))
    words = page.words()
    assert "so would perfect renders" not in words  # six portraits of known age are too few
    assert "made up was trained on 7 of these 12 portraits" in words
    assert "The extractor dlib could not be had" in words and "Only 12 portraits" in words
    assert "pairs of sitters are too few" in words
    assert "made up has learnt no such age as 10, 70: there it extrapolates" in words
    assert "best by age error" in words and "worst by identity" in words and "<b>" in words
    assert page.tags["svg"] == 2 and not {"script", "iframe", "link"} & set(page.tags)
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "does not say which pictures it was trained on" in Page(report_page(report_of(rows, None), rows)).words()


def test_without_the_judge_the_report_is_made_all_the_same():
    rows = rows_of(5, 0.0, 0.0)
    for row in rows:
        for name in ("estimated_age", "male", "cosine"):
            row[name] = np.full(len(row[name]), np.nan)
        row["embedding"], row["features"] = None, None
    report = report_of(rows, missing={"faceres": "no network", "features": "no network"})
    every = report["subjects"]["made up"]["groups"]["all"]
    judged = [key for key in every if key.startswith(("age/", "identity/")) and key != "identity/dlib"]
    assert len(judged) == 7 and all(every[key]["value"] is None and every[key]["n"] == 0 for key in judged)
    assert every["leakage/gender"]["value"] is None and every["leakage/label"]["value"] is None
    assert every["mask/regions"]["n"] == 5 and "quality/kid" not in every
    assert "The extractor faceres could not be had" in Page(report_page(report, rows)).words()


def test_the_distance_to_real_people_is_as_unsure_as_what_is_known_of_them():
    random, rows = np.random.default_rng(2), rows_of(40, 1.0, 0.9)
    for row in rows:
        if row["subject"] == REAL:
            row["estimated_age"] = row["estimated_age"] + random.normal(0, 8, 1)
        else:
            row["estimated_age"] = np.array([40.0, *AGES])  # all renders alike: they leave no doubt
    groups = report_of(rows)["subjects"]["made up"]["groups"]
    assert groups["all"]["age/slope"]["low"] == pytest.approx(groups["all"]["age/slope"]["high"])
    for group in ("all", "painting"):
        assert groups[group]["age/gap"]["high"] - groups[group]["age/gap"]["low"] > 1.0


def test_of_one_sitter_nobody_knows_who_passes_for_the_same_person():
    report = report_of(rows_of(1, 0.5, 0.9))
    found = report["subjects"]["made up"]
    assert report["threshold"]["cosine"] is None and found["groups"]["all"]["identity/cosine"]["value"] is not None
    assert found["groups"]["all"]["identity/accepted"]["value"] is None
    assert {bin["accepted"]["value"] for bin in found["identity_curve"].values()} == {None}


def test_two_subjects_are_told_apart_portrait_by_portrait():
    first = rows_of(30, 0.1, 0.9, "first")
    second = [row for row in rows_of(30, 0.6, 0.9, "second", seed=1) if row["subject"] == "second"]
    protocol, subjects = subjects_of([*first, *second], AGES, ["first", "second"])
    tests = scores.compare(protocol, subjects["first"], subjects["second"])
    assert tests["age/slope"].difference.value == pytest.approx(0.5, abs=0.02) and tests["age/slope"].p < 0.001
    assert tests["identity/cosine"].p == 1.0


def test_without_a_bundle_the_one_that_ships_is_scored():
    assert EvaluateConfig(out="out", photographs=("a",)).all_bundles == (DEFAULT,)
    assert bundle_names([DEFAULT]) == {"default": DEFAULT}


def test_configurations_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="something to measure on"):
        EvaluateConfig(out="out", bundles=("a",))
    with pytest.raises(ConfigError, match="two bundles, found: a"):
        EvaluateConfig(out="out", compare=("a",), photographs=("b",))
    with pytest.raises(ConfigError, match="two or more, ascending"):
        EvaluateConfig(out="out", bundles=("a",), photographs=("b",), ages="30,20")


def test_bundles_get_the_shortest_names_that_tell_them_apart():
    assert list(bundle_names(["/a/one/bundle", "/a/two/bundle/"])) == ["one", "two"]
    assert list(bundle_names(["/a/run/bundle", "/b/run/bundle"])) == ["a/run", "b/run"]


def test_extractors_that_cannot_be_had_are_named(monkeypatch):
    def fetch(name: str) -> None:
        if name in unreachable:
            raise CapriciousError(f"weight {name} is not on this machine")

    monkeypatch.setattr(measure.weights, "fetch", fetch)
    unreachable = {"vgg16-conv"}
    assert measure.missing_extractors() == {"perceptual": "weight vgg16-conv is not on this machine"}
    unreachable = {name for needed in measure.EXTRACTORS.values() for name in needed}
    with pytest.raises(CapriciousError, match="no extractor can be had"):
        measure.missing_extractors()


def test_a_crop_is_read_as_it_was_prepared():
    face = Annotator(AnnotatorConfig(resolution=128)).annotate(astronaut())[0]
    reader = CropReader()
    found = reader(face.image)
    assert found is not None
    labels, glasses = found
    assert not glasses and (labels == face.label_map).mean() > 0.9
    assert {EYES, MOUTH} <= set(np.unique(labels))
    assert reader(np.full((64, 64, 3), 128, np.uint8)) is None


class _Judge:
    """Reads the age from the brightness, 0…255 as 0…100 years."""

    def __call__(self, images: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(age=images.mean((1, 2, 3)) / 2.55, embedding=np.ones((len(images), 1)))


class _Obedient:
    """A generator that paints the age: level 0…1 of the vector's first field."""

    def __init__(self) -> None:
        self.weight = torch.zeros(1)

    def parameters(self):
        return iter([self.weight])


def obedient_render(image, label_map, own, requested):
    return (2 * requested[:, 0] - 1).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)


def test_checkpoints_are_scored_by_obedience_and_identity(monkeypatch):
    from training_tools import Listed, made_up_portraits

    monkeypatch.setattr(checkpoint_scorer, "Faceres", lambda threads: _Judge())
    scorer = CheckpointScorer(Listed(made_up_portraits(40)), 64)
    networks = SimpleNamespace(generator=_Obedient(), render=obedient_render)
    found = scorer(networks)
    assert found["age/slope"] == pytest.approx(1.0, abs=0.01) and found["age/mae"] < 0.5
    assert found["evaluate/score"] == pytest.approx(1.0, abs=0.01)
    assert harmonic_mean(0.0, 1.0) == 0.0 and harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    with pytest.raises(CapriciousError, match="there are none"):
        CheckpointScorer(Listed(), 64)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    photo = astronaut()
    (folder / "astronaut.jpg").write_bytes(encode(photo, "jpeg"))
    (folder / "mirrored.png").write_bytes(encode(np.ascontiguousarray(photo[:, ::-1]), "png"))
    (folder / "labels.csv").write_text("file,age\nastronaut.jpg,37\nmirrored.png,37\n")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "bundle"
    networks = shaken(Generator(tiny()), 0.1), shaken(StyleEncoder(EncoderConfig(64, 2, 8)), 0.1)
    save_bundle(folder, *networks, training_pictures=picture_names(["00" * 32 + "-0"]))
    return folder


@pytest.fixture(scope="module")
def config(pictures, bundle, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("evaluation") / "out")
    return EvaluateConfig(
        out=out, bundles=(str(bundle),), paintings=(str(pictures),), ages="20,60", workers=1, shard_size=1
    )


@pytest.fixture(scope="module")
def outcome(ray_cluster, config):
    return evaluate(config)


def test_a_folder_of_pictures_is_prepared_scored_and_resumed(outcome, config, bundle):
    out = Path(config.out)
    assert (outcome.portraits, outcome.measured, outcome.exit_code(0.1)) == (2, 2, 0)
    report = json.loads((out / "report.json").read_text())
    name = bundle.parent.name
    assert report["sitters"]["painting"] == 2 and report["resolution"] == 64 and not report["missing"]
    assert report["bundles"][name]["training_images"] == 0
    assert report["judge_on_real"]["all"]["mae"]["value"] < 12
    assert report["subjects"][IDENTITY]["groups"]["all"]["mask/regions"]["value"] > 0.8
    noise = report["subjects"][name]["groups"]["all"]
    assert noise["identity/accepted"]["value"] == 0.0 and math.isfinite(noise["reconstruction/psnr"]["value"])
    delivered = report["subjects"][f"{name}, put back"]["groups"]["all"]
    assert delivered["identity/cosine"]["value"] > noise["identity/cosine"]["value"]  # the portrait's own pixels
    assert delivered["reconstruction/psnr"]["value"] is None
    page = Page((out / "report.html").read_text())
    assert page.open == [] and "astronaut.jpg" in page.words() and f"{name}, put back: ten more" in page.words()

    first = out / "measured" / "part-00000.parquet"
    before = {path: path.read_bytes() for path in sorted((out / "measured").iterdir())}
    untouched = first.stat().st_mtime_ns
    (out / "measured" / "part-00001.parquet").unlink()  # as if killed before the second shard
    assert evaluate(config).report == outcome.report
    assert {path: path.read_bytes() for path in before} == before and first.stat().st_mtime_ns == untouched
    with pytest.raises(CapriciousError, match="another ages"):
        evaluate(replace(config, ages="20,70"))


def read_rows(shard) -> list[dict]:
    return read_table(str(shard)).to_pylist()


def test_training_images_are_refused_unless_asked_for_and_a_damaged_portrait_is_told(outcome, config, tmp_path):
    folder = str(Path(config.out) / "prepared" / "paintings-0")
    dataset = PreparedDataset(folder, None)
    names = picture_names(dataset.portrait(i).id for i in range(len(dataset)))
    seen = tmp_path / "seen" / "bundle"
    networks = Generator(tiny()), StyleEncoder(EncoderConfig(64, 2, 8))
    save_bundle(seen, *networks, training_pictures=names[:1])
    again = replace(config, out=str(tmp_path / "out"), bundles=(str(seen),), paintings=(folder,), split="all")
    with pytest.raises(CapriciousError, match="1 of the 2 portraits are among the training images of seen"):
        evaluate(again)
    shard = next(uri for uri in sorted(Path(folder, "portraits").iterdir()) if read_rows(uri))
    write_table(str(shard), [{**row, "image": b"damaged"} for row in read_rows(shard)], PORTRAIT_SCHEMA)
    found = evaluate(replace(again, allow_training_images=True))
    assert (found.measured, found.reasons, found.exit_code(0.1)) == (1, {"decode: not-an-image": 1}, 1)
    assert found.report["bundles"]["seen"]["training_images"] == 1
    assert "seen was trained on 1 of these" in (tmp_path / "out" / "report.html").read_text()


def test_a_folder_without_faces_is_told(ray_cluster, bundle, tmp_path):
    folder = tmp_path / "still-life"
    folder.mkdir()
    (folder / "coffee.jpg").write_bytes(encode(coffee(), "jpeg"))
    config = EvaluateConfig(out=str(tmp_path / "out"), bundles=(str(bundle),), paintings=(str(folder),), workers=1)
    with pytest.raises(CapriciousError, match="none of its 1 pictures shows a usable face .1 × detect: no-face"):
        evaluate(config)
