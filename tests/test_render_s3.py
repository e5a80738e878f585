"""Render as a museum runs it: from a real S3-compatible server to the same, killed on the way, run again, verified."""

import json
import time

import numpy as np
import pytest
from skimage.data import astronaut

from capricious.cluster.ledger import done_shards
from capricious.cluster.plan import PLAN, read_plan
from capricious.data import storage
from capricious.faces.image import encode
from capricious.model.bundle import save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig


def done(out: str) -> list[int]:
    return done_shards(read_plan(out)) if storage.exists(storage.join(out, PLAN)) else []


@pytest.mark.slow
def test_from_s3_to_s3_with_the_driver_killed(bucket, start_job, tmp_path):
    save_bundle(
        tmp_path / "random",  # random weights: wiring
        Generator(GeneratorConfig(resolution=64, width=2, hidden=4)),
        StyleEncoder(EncoderConfig(resolution=64, width=2)),
    )
    for file in (tmp_path / "random").iterdir():
        storage.write_atomic(f"{bucket}/bundle/{file.name}", file.read_bytes())
    for shift in range(0, 40, 10):
        storage.write_atomic(f"{bucket}/portraits/{shift}.jpg", encode(np.roll(astronaut(), shift, 1), "jpeg"))
    storage.write_atomic(f"{bucket}/portraits/notes.txt", b"no picture")
    out = f"{bucket}/sweeps"
    render = ["--source", f"{bucket}/portraits", "--bundle", f"{bucket}/bundle", "--out", out]
    render += ["--ages", "20,70", "--shard-size", "1", "--workers", "1"]

    first = start_job("render.py", *render)
    while not done(out) and first.poll() is None:
        time.sleep(0.2)
    first.kill()
    first.wait()
    before = {shard: storage.read(storage.join(out, "ledger", f"part-{shard:05d}.parquet")) for shard in done(out)}
    assert before

    printed, _ = (again := start_job("render.py", *render)).communicate()
    assert again.returncode == 3, printed  # the text file fails
    plan = read_plan(out)
    assert done_shards(plan) == list(range(5))
    for shard, ledger in before.items():
        assert storage.read(storage.join(out, "ledger", f"part-{shard:05d}.parquet")) == ledger
    report = json.loads(storage.read(f"{out}/report.json"))
    assert (report["ok"], report["failed"], report["rows"]) == (4, 1, 20)
    assert b"not-an-image" in storage.read(f"{out}/gallery/failed-0000.js")

    victim = storage.read(f"{out}/manifest-sha256.txt").decode().splitlines()[0].split("  ")[1]
    storage.write_atomic(f"{out}/{victim}", b"touched")
    printed, _ = (verify := start_job("verify.py", "--out", out, "--workers", "1")).communicate()
    assert verify.returncode == 1
    assert f"{victim}: sha256 must be" in printed
    assert "16 ok, 4 failed, 0 skipped; 1 problems" in printed  # all others are well
