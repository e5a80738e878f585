"""Prepare as a user runs it, from a real S3-compatible server to the same, killed on the way and run again."""

import time

import numpy as np
from skimage.data import astronaut, coffee

from capricious.data import storage
from capricious.data.prepared import PreparedDataset, read_receipts, read_rejects
from capricious.faces.image import encode


def test_from_s3_to_s3_with_the_driver_killed(bucket, start_job):
    photo = astronaut()
    pictures = {f"{shift:02d}.jpg": encode(np.roll(photo, shift, 1), "jpeg") for shift in range(0, 60, 10)}
    pictures |= {"coffee.jpg": encode(coffee(), "jpeg"), "notes.txt": b"no picture"}
    for name, data in pictures.items():
        storage.write_atomic(f"{bucket}/pictures/{name}", data)
    source, out = f"{bucket}/pictures", f"{bucket}/prepared"
    prepare = ["--source", source, "--out", out, "--workers", "1", "--shard-size", "2"]
    prepare += ["--test-share", "0", "--annotator.resolution", "64"]

    first = start_job("prepare.py", *prepare)
    while not read_receipts(out) and first.poll() is None:
        time.sleep(0.2)
    first.kill()
    first.wait()
    done = read_receipts(out)
    assert done

    printed, _ = (again := start_job("prepare.py", *prepare)).communicate()
    assert again.returncode == 3, printed
    assert {shard: receipt for shard, receipt in read_receipts(out).items() if shard in done} == done
    dataset = PreparedDataset(out, None)
    found = sorted(dataset.portrait(i).source_uri for i in range(len(dataset)))
    assert found == [f"{source}/{name}" for name in sorted(pictures)[:6]]
    rejects = {row["uri"]: (row["stage"], row["reason"]) for row in read_rejects(out)}
    assert rejects == {
        f"{source}/coffee.jpg": ("detect", "no-face"),
        f"{source}/notes.txt": ("decode", "not-an-image"),
    }
    assert b"coffee.jpg" in storage.read(f"{out}/report.html")
