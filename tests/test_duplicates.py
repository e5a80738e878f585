"""Near-duplicates of a prepared dataset are found exactly, and without comparing all pairs."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capricious.data import duplicates
from capricious.data.duplicates import affordable_threshold, find_near_duplicates, group_by_distance
from capricious.data.records import PORTRAIT_SCHEMA
from capricious.errors import CapriciousError
from capricious.faces.perceptual_hash import BITS, SAME_PICTURE, hamming


def flipped(value: bytes, bits: int, random: np.random.Generator) -> bytes:
    """A hash that differs from `value` in so many bits."""
    mask = np.zeros(BITS, np.uint8)
    mask[random.choice(BITS, bits, replace=False)] = 1
    return (np.frombuffer(value, np.uint8) ^ np.packbits(mask)).tobytes()


def as_array(hashes: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), BITS // 8)


def brute_force(hashes: list[bytes], threshold: int) -> list[list[int]]:
    """Connected components by flooding, with every pair compared."""
    left, groups = set(range(len(hashes))), []
    while left:
        group, edge = set(), {min(left)}
        while edge:
            group |= edge
            left -= edge
            edge = {j for j in left if any(hamming(hashes[i], hashes[j]) <= threshold for i in edge)}
        if len(group) > 1:
            groups.append(sorted(group))
    return groups


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 50))
def test_the_groups_are_those_of_comparing_all_pairs(seed, threshold):
    random = np.random.default_rng(seed)
    hashes = [random.bytes(32) for _ in range(12)]
    # Copies around the threshold, where a search that is not exact would lose some.
    for _ in range(25):
        distance = int(np.clip(threshold + random.integers(-3, 3), 0, BITS))
        hashes.append(flipped(hashes[random.integers(len(hashes))], distance, random))
    random.shuffle(hashes)
    assert [group.tolist() for group in group_by_distance(as_array(hashes), threshold)] == brute_force(
        hashes, threshold
    )


def test_the_worst_spread_of_bits_is_found():
    """One differing bit more or less in every band: the case that multi-index hashing must not miss."""
    random = np.random.default_rng(0)
    for threshold in (0, 1, 15, 16, 17, 31, 32, 39, 47):
        hashes = []
        for _ in range(40):
            base = random.bytes(32)
            hashes += [base, flipped(base, threshold, random)]
        assert len(group_by_distance(as_array(hashes), threshold)) == 40


def test_100_000_copies_of_a_few_pictures_are_no_burden():
    few = np.random.default_rng(0).integers(0, 256, (3, 32), np.uint8)
    groups = group_by_distance(np.tile(few, (33_333, 1)), 31)
    assert [len(group) for group in groups] == [33_333] * 3


def test_work_that_is_cut_small_finds_the_same(monkeypatch):
    random = np.random.default_rng(0)
    hashes = [random.bytes(32) for _ in range(20)]
    hashes += [flipped(hashes[random.integers(len(hashes))], 30, random) for _ in range(60)]
    expected = brute_force(hashes, 39)
    monkeypatch.setattr(duplicates, "_AT_ONCE", 7)
    assert [group.tolist() for group in group_by_distance(as_array(hashes), 39)] == expected


def test_the_more_portraits_the_nearer_the_copies_that_are_sought():
    assert [affordable_threshold(count) for count in (0, 100_000, 1_400_000)] == [SAME_PICTURE] * 3
    assert [affordable_threshold(count) for count in (3_000_000, 10_000_000, 1_000_000_000)] == [31, 15, 0]


@pytest.mark.parametrize("threshold", [-1, BITS])
def test_an_impossible_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be in 0…255"):
        group_by_distance(np.zeros((2, 32), np.uint8), threshold)


def write_shard(folder, shard: int, rows: list[dict]) -> None:
    """Writes one shard with only the columns that matter here, and its receipt."""
    schema = pa.schema([f for f in PORTRAIT_SCHEMA if f.name in ("id", "source_uri", "split", "perceptual_hash")])
    for name in ("portraits", "receipts"):
        (folder / name).mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "portraits" / f"part-{shard:05d}.parquet")
    (folder / "receipts" / f"part-{shard:05d}.json").write_text(json.dumps({"shard": shard}))


def row(name: str, split: str, value: bytes) -> dict:
    return {"id": f"id of {name}", "source_uri": name, "split": split, "perceptual_hash": value}


def test_groups_are_found_across_shards_and_splits(tmp_path):
    random = np.random.default_rng(0)
    one, two, three = (random.bytes(32) for _ in range(3))
    write_shard(tmp_path, 0, [row("a", "train", one), row("b", "train", two)])
    write_shard(tmp_path, 1, [])
    write_shard(
        tmp_path,
        2,
        [
            row("c", "test", flipped(two, 9, random)),
            row("d", "train", three),
            row("e", "train", flipped(one, 3, random)),
        ],
    )
    first, second = find_near_duplicates(str(tmp_path))
    assert first.source_uris == ("a", "e") and first.ids == ("id of a", "id of e")
    assert first.places == ((0, 0), (2, 2)) and not first.crosses_splits
    assert second.source_uris == ("b", "c") and second.splits == ("train", "test") and second.crosses_splits
    assert find_near_duplicates(str(tmp_path), threshold=2) == []


def test_a_shard_without_a_receipt_is_not_read(tmp_path):
    write_shard(tmp_path, 0, [row("a", "train", bytes(32))])
    (tmp_path / "portraits" / "part-00001.parquet").write_bytes(b"half written")
    assert find_near_duplicates(str(tmp_path)) == []


def test_a_dataset_without_shards_has_no_duplicates(tmp_path):
    assert find_near_duplicates(str(tmp_path)) == []


def test_a_row_without_a_hash_is_named(tmp_path):
    write_shard(tmp_path, 0, [row("a", "train", bytes(32)), row("b", "train", b"")])
    with pytest.raises(CapriciousError, match=r"part-00000.parquet, row 1: .*32 bytes, found: b''; prepare it again"):
        find_near_duplicates(str(tmp_path))
