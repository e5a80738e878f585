"""The prepared dataset on disk."""

import numpy as np
import pytest

from capricious.data import prepared
from capricious.data.prepared import PreparedDataset, read_receipts, read_rejects, reopen, spread, write_manifest
from capricious.data.records import Portrait, portrait_id, split_of
from capricious.errors import CapriciousError
from capricious.faces.attributes import Attributes


def a_portrait(number: int, split: str = "train") -> Portrait:
    rng = np.random.default_rng(number)
    return Portrait(
        id=portrait_id(bytes([number]), 0),
        source_uri=f"s3://museum/{number}.jpg",
        source_size=(640, 480),
        face=0,
        split=split,
        image=rng.bytes(30),
        label_map=rng.bytes(20),
        landmarks=rng.random((68, 2), np.float32),
        quad=rng.random((4, 2), np.float32),
        attributes=Attributes(age=number, glasses="sun", emotion=(0.5, 0.5, 0, 0, 0, 0, 0, 0)),
        attribute_source={"age": "label", "gender": None, "glasses": "estimated", "smile": None, "emotion": "label"},
        detection_score=0.5,
        landmark_score=0.75,
        pose=np.array([-30, 5, 1.5], np.float32),
        resolution_score=2.0,
        inside_score=1.0,
        perceptual_hash=rng.bytes(32),
        license="CC0",
    )


REJECT = {"uri": "notes.txt", "stage": "decode", "reason": "not-a-picture", "detail": "…"}


def write_shard(out, shard, portraits, rejects):
    pictures = len(portraits) + len(rejects)
    prepared.write_shard(out, shard, portraits, rejects, pictures=pictures, seconds={"decode": 0.25})


def same(a: Portrait, b: Portrait) -> bool:
    return a.row() == b.row()


def test_what_is_written_is_read(tmp_path):
    out = str(tmp_path)
    write_shard(out, 0, [a_portrait(1), a_portrait(2, "test")], [REJECT])
    write_shard(out, 1, [a_portrait(3)], [])
    manifest = write_manifest(out, 2, {"source": "x"}, 64)
    assert (manifest["portraits"], manifest["rejects"]) == (3, 1)
    train, test = PreparedDataset(out, "train"), PreparedDataset(out, "test")
    assert train.resolution == 64
    assert [same(train.portrait(i), a_portrait(n)) for i, n in enumerate((1, 3))] == [True, True]
    assert len(test) == 1 and same(test.portrait(0), a_portrait(2, "test"))
    assert len(PreparedDataset(out, None)) == 3
    assert list(read_rejects(out)) == [REJECT]


def test_the_fingerprint_follows_the_content(tmp_path):
    def fingerprint(name: str, number: int) -> str:
        out = str(tmp_path / name)
        write_shard(out, 0, [a_portrait(number)], [])
        write_manifest(out, 1, {}, 64)
        return PreparedDataset(out).fingerprint

    assert fingerprint("a", 1) == fingerprint("b", 1) != fingerprint("c", 2)


def test_an_incomplete_dataset_is_refused_with_the_remedy(tmp_path):
    out = str(tmp_path)
    write_shard(out, 0, [a_portrait(1)], [])
    with pytest.raises(CapriciousError, match="jobs/prepare.py"):
        PreparedDataset(out)
    with pytest.raises(CapriciousError, match="shard 1 .* is missing"):
        write_manifest(out, 2, {}, 64)


def test_a_shard_is_done_when_its_receipt_is_there(tmp_path):
    out = str(tmp_path)
    assert read_receipts(out) == {}
    write_shard(out, 0, [], [REJECT])
    write_shard(out, 2, [a_portrait(1)], [])
    receipts = read_receipts(out)
    assert sorted(receipts) == [0, 2]
    assert [(r["pictures"], r["portraits"], r["rejects"]) for r in receipts.values()] == [(1, 0, 1), (1, 1, 0)]
    assert receipts[2]["seconds"] == {"decode": 0.25}


def test_a_reopened_dataset_is_incomplete_until_its_shards_are_written_anew(tmp_path, monkeypatch):
    out = str(tmp_path)
    write_shard(out, 0, [a_portrait(1)], [])
    write_shard(out, 1, [], [REJECT])
    write_manifest(out, 2, {}, 64)
    reopen(out)
    assert sorted(read_receipts(out)) == [0, 1]
    with pytest.raises(CapriciousError, match="not a complete"):
        PreparedDataset(out)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            write_shard(out, 1, [a_portrait(2)], [])
    assert sorted(read_receipts(out)) == [0]  # nothing vouches for tables of which one may be old and one new
    write_shard(out, 1, [a_portrait(2)], [])
    write_manifest(out, 2, {}, 64)
    assert len(PreparedDataset(out)) == 2


def killed(*arguments):
    raise KeyboardInterrupt


def test_portraits_are_read_spread_over_the_shards(tmp_path):
    out = str(tmp_path)
    for shard, numbers in enumerate(([1, 2, 3], [], [4, 5, 6, 7, 8, 9])):
        write_shard(out, shard, [a_portrait(n) for n in numbers], [])
    write_manifest(out, 3, {}, 64)
    assert [p.source_uri for p in spread(out, 3)] == [f"s3://museum/{n}.jpg" for n in (1, 4, 7)]
    assert len(spread(out, 99)) == 9


def test_an_empty_split_is_refused(tmp_path):
    write_shard(str(tmp_path), 0, [a_portrait(1)], [])
    write_manifest(str(tmp_path), 1, {}, 64)
    with pytest.raises(CapriciousError, match="no portraits in split 'test'"):
        PreparedDataset(str(tmp_path), "test")


def test_the_split_is_stable_and_near_its_share():
    hashes = [portrait_id(bytes([i % 256, i // 256]), 0)[:64] for i in range(4000)]
    share = sum(split_of(h, 0.1) == "test" for h in hashes) / len(hashes)
    assert 0.08 < share < 0.12
    assert [split_of(h, 0.1) for h in hashes] == [split_of(h, 0.1) for h in hashes]
