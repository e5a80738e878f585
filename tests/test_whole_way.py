"""The whole way on real Ray with real weights: bad and good pictures → prepare → train two steps → render.

Two steps of training make no model: the pictures that come out show wiring only. (Serve: tests/test_serve.py.)
"""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut, coffee

from capricious.annotate.annotator import AnnotatorConfig
from capricious.cluster.ledger import portraits
from capricious.cluster.plan import read_plan
from capricious.cluster.prepare import SHEET, PrepareConfig, annotation_sheet, prepare
from capricious.cluster.render import RenderConfig, render
from capricious.cluster.train import TrainConfig, run_training
from capricious.data.prepared import PreparedDataset, read_rejects, spread
from capricious.errors import CapriciousError
from capricious.faces.image import decode, encode
from capricious.model.bundle import load_bundle
from capricious.render.provenance import read_stamp
from capricious.training.config import NetworkConfig, TrainingConfig

R = 64


def huge_png(side: int) -> bytes:
    """A well-formed header of side×side pixels: what a decompression bomb looks like."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


BAD = {
    "landscape.jpg": ("detect", "no-face"),
    "notes.txt": ("decode", "not-an-image"),
    "zero.jpg": ("decode", "empty"),
    "huge.png": ("decode", "too-many-pixels"),
    "truncated.jpg": ("decode", "truncated"),
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection")
    photo = astronaut()
    portrait = encode(photo, "jpeg")
    contents = {
        "astronaut.jpg": portrait,
        "mirrored.png": encode(np.ascontiguousarray(photo[:, ::-1]), "png"),
        "three.png": encode(np.hstack([photo[:, :400]] * 3), "png"),
        "landscape.jpg": encode(coffee(), "jpeg"),
        "notes.txt": b"a text file",
        "zero.jpg": b"",
        "huge.png": huge_png(30_000),
        "truncated.jpg": portrait[: len(portrait) // 2],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "labels.csv").write_text("file,age,gender\nastronaut.jpg,43,female\n")
    return folder


@pytest.fixture(scope="module")
def prepare_config(collection, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    annotator = AnnotatorConfig(resolution=R)
    return PrepareConfig(source=str(collection), out=str(out), test_share=0.0, workers=1, annotator=annotator)


@pytest.fixture(scope="module")
def prepared(ray_cluster, prepare_config):
    return prepare(prepare_config)


def by_name(rows):
    return {row["uri"].rsplit("/", 1)[1]: row for row in rows}


def test_every_input_ends_as_rows_or_as_one_reject(prepared, prepare_config):
    rejects = by_name(read_rejects(prepare_config.out))
    assert {name: (row["stage"], row["reason"]) for name, row in rejects.items()} == BAD
    dataset = PreparedDataset(prepare_config.out, None)
    portraits = [dataset.portrait(i) for i in range(len(dataset))]
    names = [p.source_uri.rsplit("/", 1)[1] for p in portraits]
    assert sorted(names) == ["astronaut.jpg", "mirrored.png", *["three.png"] * 3]
    assert (prepared.pictures, prepared.portraits, prepared.rejects) == (8, 5, 5)
    assert prepared.exit_code(0.5) == 1 and prepared.exit_code(0.9) == 3


def test_labels_win_over_estimates(prepared, prepare_config):
    dataset = PreparedDataset(prepare_config.out, None)
    portraits = {p.source_uri.rsplit("/", 1)[1]: p for p in map(dataset.portrait, range(len(dataset)))}
    labelled, estimated = portraits["astronaut.jpg"], portraits["mirrored.png"]
    assert (labelled.attributes.age, labelled.attribute_source["age"]) == (43.0, "label")
    assert estimated.attribute_source["age"] == "estimated" and 20 < estimated.attributes.age < 60
    face = labelled.decoded()
    assert face.image.shape == (R, R, 3) and set(np.unique(face.label_map)) == set(range(7))


def test_the_same_command_resumes_and_another_is_refused(prepared, prepare_config, tmp_path):
    out = tmp_path / prepare_config.out
    shards = sorted((out / "portraits").glob("*.parquet"))
    before = {path: path.read_bytes() for path in shards}
    untouched = shards[0].stat().st_mtime_ns
    shards[1].write_bytes(b"half a shard")  # as if killed between the shard and its receipt
    (out / "receipts" / "part-00001.json").unlink()
    (out / "_manifest.json").unlink()
    assert prepare(prepare_config) == prepared
    assert {path: path.read_bytes() for path in shards} == before
    assert shards[0].stat().st_mtime_ns == untouched
    with pytest.raises(CapriciousError, match="another quality"):
        prepare(PrepareConfig(**{**vars(prepare_config), "quality": 50}))


def test_rejects_are_tried_again_on_request(collection, ray_cluster, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "good.jpg").write_bytes((collection / "astronaut.jpg").read_bytes())
    (folder / "labels.csv").write_text("file,age\ngood.jpg,40\nlate.png,41\n")
    config = PrepareConfig(
        source=str(folder), out=str(tmp_path / "out"), workers=1, annotator=AnnotatorConfig(resolution=R)
    )
    first = prepare(config)
    assert (first.portraits, first.reasons) == (1, {"read: not-found": 1})
    (folder / "late.png").write_bytes((collection / "mirrored.png").read_bytes())
    assert prepare(config) == first  # what is done stays done,
    again = prepare(replace(config, retry_rejects=True))  # until it is asked for
    assert (again.portraits, again.rejects) == (2, 0)
    assert PreparedDataset(config.out, None).portrait(1).attributes.age == 41


def test_prepare_leaves_a_sheet_to_look_at(prepared, prepare_config, tmp_path):
    assert decode((tmp_path / prepare_config.out / SHEET).read_bytes(), name="sheet").ndim == 3


def test_a_sheet_of_any_number_of_portraits(prepared, prepare_config):
    portraits = spread(prepare_config.out, 3)
    one, two, three = (decode(annotation_sheet(portraits[:n]), name="sheet").shape for n in (1, 2, 3))
    assert one[1] < two[1]  # the second portrait stands beside the first,
    assert two[0] < three[0]  # the third below


@pytest.fixture(scope="module")
def trained(prepared, prepare_config, tmp_path_factory):
    network = NetworkConfig(width=4, hidden=8, encoder_width=4, discriminator_width=4)
    training = TrainingConfig(resolution=R, network=network, batch_size=4, kimg=0.008, log_every=1, num_workers=1)
    out = tmp_path_factory.mktemp("trained")
    return run_training(TrainConfig(prepare_config.out, str(out), cpus_per_worker=1, training=training))


def test_training_through_ray_reports_and_leaves_a_bundle(trained, prepare_config):
    assert trained["finished"] and trained["kimg"] == 0.008
    info = load_bundle(trained["bundle"]).info
    assert info["resolution"] == R
    assert info["data"]["fingerprint"] == PreparedDataset(prepare_config.out, None).fingerprint


def test_rendering_through_ray(trained, collection, tmp_path):
    config = RenderConfig(source=str(collection), bundle=trained["bundle"], out=str(tmp_path), ages="20,70", workers=1)
    outcome = render(config)
    assert (outcome.pictures, outcome.rendered, outcome.skipped) == (8, 3, 0)
    plan = read_plan(str(tmp_path))
    ledger = {rows[0]["uri"].rsplit("/", 1)[1]: rows for rows in portraits(plan.out, plan.shards)}
    failed = {name: rows for name, rows in ledger.items() if rows[0]["status"] == "failed"}
    assert {name: (rows[0]["stage"], rows[0]["reason"]) for name, rows in failed.items()} == BAD
    files = {row["product"]: row["file"] for row in ledger["three.png"]}
    assert {Path(file).name for file in files.values()} == {"sheet.png", "sweep.gif", "age-20.jpg", "age-70.jpg"}
    assert ledger["three.png"][0]["faces"] == 3
    painting = (tmp_path / files["age-70"]).read_bytes()
    assert decode(painting, name="painting").shape == (512, 1200, 3)
    assert read_stamp(painting)["bundle_sha256"] == load_bundle(trained["bundle"]).sha256
    assert "three" in (tmp_path / "gallery" / "ok-0000.js").read_text()
    assert plan.fields["sweep"]["ages"] == [20.0, 70.0]
