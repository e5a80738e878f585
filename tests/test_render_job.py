"""The render job: every row of the plan ends once, in a file or with a reason. Random weights: nobody looks older here.

The shards run in a plain loop in place of Ray Data; tests/test_render_s3.py has the real one.
"""

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import c2pa
import numpy as np
import pytest
import torch
from credentials_tools import make_signer
from skimage.data import astronaut, coffee

from capricious.annotate.annotator import AnnotatorConfig
from capricious.cluster import prepare as prepare_module
from capricious.cluster import render as render_module
from capricious.cluster import render_shard
from capricious.cluster import verify as verify_module
from capricious.cluster.estimate import estimate
from capricious.cluster.ledger import done_shards, part_uri, portraits
from capricious.cluster.plan import read_plan
from capricious.cluster.prepare import PrepareConfig, prepare
from capricious.cluster.render import render
from capricious.cluster.render_config import Gate, RenderConfig
from capricious.cluster.verify import VerifyConfig, verify
from capricious.data import storage
from capricious.data.collections import Source
from capricious.data.rights import is_open
from capricious.errors import CapriciousError
from capricious.faces.attributes import Attributes
from capricious.faces.image import encode
from capricious.model.bundle import load_bundle, save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig
from capricious.model.learnt import Learnt
from capricious.render.content_credentials import CredentialsConfig
from capricious.render.picture import SweepResult
from capricious.render.provenance import read_stamp

R = 64
PRODUCTS = ["age-20", "age-70", "sheet", "animation"]


@pytest.fixture(autouse=True)
def in_a_plain_loop(monkeypatch):
    def run(worker, arguments, plan, todo, workers, what, *, gpus=0, then=lambda counts: None):
        if todo:
            actor = worker(**arguments)
            for shard in todo:
                counts = actor({"shard": [shard]})
                then({name: values[0] for name, values in counts.items()})

    for module in (prepare_module, render_module, verify_module):
        monkeypatch.setattr(module, "run_shards", run)
        monkeypatch.setattr(module, "cpu_count", lambda: 1)
        monkeypatch.setattr(module, "require_cpus", lambda *_: None, raising=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "random"
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=R, width=2, hidden=4))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_bundle(folder, generator, StyleEncoder(EncoderConfig(resolution=R, width=2)))
    return str(folder)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("museum")
    (folder / "1907.17.jpg").write_bytes(encode(astronaut(), "jpeg"))
    (folder / "1907.18.png").write_bytes(encode(np.ascontiguousarray(astronaut()[:, ::-1]), "png"))
    (folder / "1907.19.jpg").write_bytes(encode(np.roll(astronaut(), 20, 1), "jpeg"))
    (folder / "still-life.jpg").write_bytes(encode(coffee(), "jpeg"))
    rows = [
        "1907.17.jpg,CC0,CC0",
        "1907.18.png,In copyright,In copyright",
        "1907.19.jpg,Public Domain Mark 1.0,",
        "still-life.jpg,public domain,CC0",
        "lost.jpg,CC0,CC0",
    ]
    (folder / "labels.csv").write_text("\n".join(["file,rights,rights of the photograph", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def prepared(collection, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("prepared"))
    with pytest.MonkeyPatch.context() as patch:
        in_a_plain_loop.__wrapped__(patch)
        prepare(PrepareConfig(source=str(collection), out=out, workers=1, annotator=AnnotatorConfig(resolution=R)))
    return out


@pytest.fixture
def config(collection, bundle, prepared, tmp_path):
    return RenderConfig(
        source=str(collection), bundle=bundle, prepared=prepared, out=str(tmp_path / "out"), ages="20,70", workers=1
    )


def ledger(config):
    plan = read_plan(config.out)
    return {Path(rows[0]["uri"]).name: rows for rows in portraits(plan.out, plan.shards)}


def test_every_row_of_the_plan_ends_once(config, collection):
    before = {path: path.read_bytes() for path in collection.iterdir()}
    outcome = render(config)
    assert (outcome.pictures, outcome.rendered, outcome.skipped) == (5, 2, 1)
    assert outcome.reasons == {"rights: not-open": 1, "detect: no-face": 1, "read: not-found": 1}
    rows = ledger(config)
    assert {name: [row["product"] for row in found] for name, found in rows.items()} == dict.fromkeys(rows, PRODUCTS)
    assert len({row["render_id"] for found in rows.values() for row in found}) == 5 * len(PRODUCTS)
    assert rows["1907.17.jpg"][0]["attempts"] == 1 and rows["1907.18.png"][0]["attempts"] == 0
    painting = Path(config.out, rows["1907.17.jpg"][1]["file"]).read_bytes()
    assert hashlib.sha256(painting).hexdigest() == rows["1907.17.jpg"][1]["sha256"]
    record = read_stamp(painting)
    assert (
        record["source_uri"].endswith("1907.17.jpg")
        and record["source_sha256"] == rows["1907.17.jpg"][0]["source_sha256"]
    )
    assert {path: path.read_bytes() for path in collection.iterdir()} == before  # originals are never written to

    report = json.loads(Path(config.out, "report.json").read_text())
    assert (report["portraits"], report["ok"], report["failed"], report["skipped"]) == (5, 2, 2, 1)
    checked = subprocess.run(["sha256sum", "-c", "manifest-sha256.txt"], cwd=config.out, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stdout.count(": OK") == 2 * len(PRODUCTS)
    page = Path(config.out, "gallery", "index.html").read_text()
    assert '"ok":2' in page and "AI-altered" in page
    assert "1907.17" in Path(config.out, "gallery", "ok-0000.js").read_text()
    assert "its rights are stated as" in Path(config.out, "gallery", "skipped-0000.js").read_text()

    files = {path: path.stat().st_mtime_ns for path in Path(config.out, "portraits").rglob("*") if path.is_file()}
    assert render(config) == outcome  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_the_same_plan_gives_the_same_bytes_and_ids_whatever_the_shards(config, tmp_path):
    render(config)
    render(replace(config, out=str(tmp_path / "again"), shard_size=1, workers=3))
    first, again = ledger(config), ledger(replace(config, out=str(tmp_path / "again")))
    assert first == again


def test_shards_that_were_killed_are_done_again_and_no_others(config):
    render(config)
    out = Path(config.out)
    parts = sorted((out / "ledger").iterdir())
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    parts[0].unlink()  # killed after the files, before the ledger
    victim = next((out / "portraits").rglob("age-20.jpg"))
    victim.with_name(f"{victim.name}.1.partial").write_bytes(b"half")
    render(config)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_bug_in_one_portrait_costs_no_other(config, monkeypatch):
    together = render_shard.render_pictures

    def buggy(sittings, *arguments, **more):
        if any(sitting.source_uri.endswith("1907.19.jpg") for sitting in sittings):
            raise ZeroDivisionError("a bug")
        return together(sittings, *arguments, **more)

    monkeypatch.setattr(render_shard, "render_pictures", buggy)
    outcome = render(replace(config, rights="any", shard_size=5))  # all in one forward pass
    assert outcome.rendered == 2
    assert outcome.reasons == {"internal: ZeroDivisionError": 1, "detect: no-face": 1, "read: not-found": 1}
    assert verify(VerifyConfig(config.out)).problems == 0


def test_a_portrait_that_fails_half_way_leaves_no_files(config, monkeypatch):
    def buggy(result, longest=0, format="gif"):
        raise ZeroDivisionError("a bug, after the paintings are written")

    monkeypatch.setattr(SweepResult, "animation", buggy)
    assert render(config).reasons["internal: ZeroDivisionError"] == 2
    assert not list(Path(config.out, "portraits").rglob("*.*"))


def test_what_a_bundle_never_saw_is_refused_and_what_it_guesses_is_marked(config, bundle, tmp_path):
    known = load_bundle(bundle)
    learnt = Learnt.of(np.stack([Attributes(age=float(age), gender=1.0).vector() for age in range(61)]))
    save_bundle(tmp_path / "bundle", known.generator, known.encoder, learnt=learnt)
    config = replace(config, bundle=str(tmp_path / "bundle"))
    with pytest.raises(CapriciousError, match="gender female cannot be rendered: the bundle was trained on 61 male"):
        render(replace(config, genders="female"))
    render(config)
    rows = ledger(config)["1907.17.jpg"]
    assert {row["product"]: row["extrapolated"] for row in rows} == {
        "age-20": False,
        "age-70": True,
        "sheet": True,
        "animation": True,
    }
    assert '"extrapolated":["age-70"]' in Path(config.out, "gallery", "ok-0000.js").read_text()


def test_every_file_is_signed_with_the_users_certificate(config, tmp_path):
    _, chain, key = make_signer()
    (tmp_path / "chain.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    signed = replace(config, credentials=CredentialsConfig(str(tmp_path / "chain.pem"), str(tmp_path / "key.pem")))
    render(signed)
    for row in ledger(signed)["1907.17.jpg"]:
        file = Path(signed.out, row["file"])
        assert c2pa.Reader(str(file)).get_validation_state() == "Valid"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == row["sha256"]
    with pytest.raises(CapriciousError, match="another certificate_sha256"):
        render(config)


def test_another_parameter_on_the_same_output_is_refused_by_name(config, tmp_path):
    render(config)
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("1907.17\n")
    for change, field in (
        ({"ages": "20,71"}, "sweep"),
        ({"rights": "any"}, "rights"),
        ({"exclude": str(exclude)}, "exclude_sha256"),
        ({"prepared": ""}, "prepared_sha256"),
        ({"composite": replace(config.composite, mode="blend")}, "composite"),
    ):
        with pytest.raises(CapriciousError, match=f"another {field}"):
            render(replace(config, **change))


def test_failed_portraits_are_tried_again_on_request_and_only_they(config, collection, bundle, tmp_path):
    copy = tmp_path / "museum"
    copy.mkdir()
    (copy / "good.jpg").write_bytes((collection / "1907.17.jpg").read_bytes())
    (copy / "labels.csv").write_text("file\ngood.jpg\nlate.jpg\n")
    config = replace(config, source=str(copy), prepared="")
    outcome = render(config)
    assert outcome.reasons == {"read: not-found": 1}
    assert outcome.rights == "the collection states no rights: whoever started this answers for them"
    good = Path(config.out, ledger(config)["good.jpg"][0]["file"])
    written = good.stat().st_mtime_ns
    (copy / "late.jpg").write_bytes((collection / "1907.19.jpg").read_bytes())
    assert render(config).rendered == 1  # what is done stays done, until it is asked for
    outcome = render(replace(config, retry="failed"))
    assert (outcome.rendered, outcome.reasons) == (2, {})
    rows = ledger(config)
    assert [row["attempts"] for row in rows["late.jpg"]] == [2] * 4 and rows["good.jpg"][0]["attempts"] == 1
    assert good.stat().st_mtime_ns == written
    assert verify(VerifyConfig(config.out)).problems == 0


def test_rights_that_must_be_stated_and_pictures_that_must_stay_out(config, collection, tmp_path):
    (tmp_path / "exclude.txt").write_text("still-life\n\nhttps://example.org/other.jpg\n")
    strict = replace(config, rights_column="rights of the photograph", exclude=str(tmp_path / "exclude.txt"))
    outcome = render(strict)
    assert (outcome.rendered, outcome.skipped) == (1, 3)
    assert outcome.reasons == {"rights: not-open": 2, "exclude: excluded": 1, "read: not-found": 1}
    anything = replace(config, rights="any", out=str(tmp_path / "any"))
    assert render(anything).rendered == 3
    assert "whatever their rights" in json.loads((tmp_path / "any" / "report.json").read_text())["rights"]


def test_where_rights_are_stated_silence_is_no_permission(config):
    silent, open_, closed = (Source("a.jpg", license=words) for words in ("", "CC0", "In copyright"))
    gate = Gate(config, stated=True)
    assert gate.check(open_) is None
    assert gate.check(closed).detail.startswith("its rights are stated as 'In copyright'")
    assert gate.check(silent).detail.startswith("its rights are not stated")
    assert Gate(config, stated=False).check(silent) is None  # whoever runs it answers for a plain folder
    assert Gate(replace(config, rights_column="rights"), stated=False).check(silent) is not None
    assert Gate(replace(config, rights="any"), stated=True).check(closed) is None


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CC0", True),
        ("CC0 1.0 Universal", True),
        ("https://creativecommons.org/publicdomain/zero/1.0/", True),
        ("http://creativecommons.org/publicdomain/mark/1.0/", True),
        ("public domain by age; photo via WikiArt", True),
        ("Public Domain, copyright expired", True),
        ("not in the public domain", False),
        ("CC BY-NC-SA 4.0", False),
        ("In copyright", False),
        ("public domain; photo © Museum", False),
        ("", False),
        ("http://rightsstatements.org/vocab/InC/1.0/", False),
    ],
)
def test_rights_are_read_as_their_keepers_mean_them(statement, expected):
    assert is_open(statement) is expected


def test_verify_finds_what_is_missing_changed_doubled_or_strange(config):
    config = replace(config, shard_size=1)
    render(config)
    assert verify(VerifyConfig(config.out)).rows == {"ok": 8, "failed": 8, "skipped": 4}
    rows = ledger(config)["1907.17.jpg"]
    first, second, sheet = (Path(config.out, row["file"]) for row in rows[:3])
    first.write_bytes(first.read_bytes() + b"x")
    second.unlink()
    sheet.with_name("copy.png").write_bytes(b"")
    Path(config.out, "ledger", "part-00004.parquet").unlink()
    verdict = verify(VerifyConfig(config.out))
    assert verdict.problems == 4
    text = "\n".join(verdict.shown)
    for word in (
        "age-20.jpg: sha256 must be",
        "age-70.jpg: missing",
        "copy.png: not in the ledger",
        "shard 4 is not done",
    ):
        assert word in text
    with pytest.raises(CapriciousError, match="has no _plan.json"):
        verify(VerifyConfig(str(Path(config.out).parent / "nothing")))


def test_a_dry_run_measures_and_writes_nothing(config):
    found = estimate(config)
    assert (found.portraits, found.skipped, found.products, found.sampled, found.failed) == (5, 1, 4, 4, 2)
    assert found.seconds > 0 and found.bytes > 10_000
    assert "16 files to make" in found.text(workers=2)
    assert not Path(config.out).exists()


def test_annotations_that_do_not_fit_the_picture_are_a_reason(config, collection, tmp_path):
    copy = tmp_path / "museum"
    copy.mkdir()
    (copy / "new.jpg").write_bytes((collection / "1907.17.jpg").read_bytes())
    assert render(replace(config, source=str(copy))).reasons == {"prepared: not-prepared": 1}


def test_what_prepare_rejected_is_not_decoded(config, monkeypatch):
    decoded, read = [], render_shard.read_scan
    monkeypatch.setattr(render_shard, "read_scan", lambda data, name: (decoded.append(name), read(data, name=name))[1])
    assert render(config).reasons["detect: no-face"] == 1
    assert [Path(name).name for name in decoded] == ["1907.17.jpg", "1907.19.jpg"]


def test_a_full_disk_is_said_plainly_and_can_be_resumed(config, small_disk):
    disk, enlarge = small_disk
    config = replace(config, out=str(disk / "sweeps"), rights="any", shard_size=1)
    with pytest.raises(CapriciousError, match=r"No space left on device.*run the same command again"):
        render(config)
    plan = read_plan(config.out)
    done = {shard: part_uri(config.out, shard) for shard in done_shards(plan)}
    before = {uri: Path(uri).read_bytes() for uri in done.values()}
    assert len(done) < plan.shards and not list(disk.rglob("*.partial"))
    enlarge()
    assert render(config).rendered == 3
    assert {uri: Path(uri).read_bytes() for uri in before} == before
    assert verify(VerifyConfig(config.out)).problems == 0


def test_from_s3_to_s3(bucket, config, collection):
    for path in [*collection.iterdir(), *Path(config.bundle).iterdir()]:
        kind = "museum" if path.parent == collection else "bundle"
        storage.write_atomic(f"{bucket}/{kind}/{path.name}", path.read_bytes())
    out = f"{bucket}/sweeps"
    far = replace(config, source=f"{bucket}/museum", bundle=f"{bucket}/bundle", prepared="", out=out)
    outcome = render(far)
    assert (outcome.rendered, outcome.skipped) == (2, 1)
    assert verify(VerifyConfig(out)).rows == {"ok": 8, "failed": 8, "skipped": 4}
    assert b"1907.17" in storage.read(f"{out}/gallery/ok-0000.js")
    checksums = storage.read(f"{out}/manifest-sha256.txt").decode().splitlines()
    assert len(checksums) == 8
    storage.write_atomic(f"{out}/{checksums[0].split('  ')[1]}", b"touched")
    assert verify(VerifyConfig(out)).problems == 1
