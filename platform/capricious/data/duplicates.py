"""Near-duplicates of a prepared dataset: the same picture filed twice, perhaps rescaled, retouched or cropped.

They matter because a copy in the test split of a portrait in the training split makes every measurement look
better than it is. All pairs within the threshold are found exactly, without comparing all pairs: multi-index
hashing (Norouzi, Punjani & Fleet 2012, "Fast Search in Hamming Space with Multi-Index Hashing", section 3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import pyarrow as pa

from capricious.data.ahead import ahead
from capricious.data.prepared import read_receipts, read_shard, shard_uri
from capricious.errors import CapriciousError
from capricious.faces.perceptual_hash import BITS, SAME_PICTURE, hamming_many

_BAND_BITS = 16
_BANDS = BITS // _BAND_BITS
_AT_ONCE = 1 << 17
"""Pairs that are compared or joined at once: bounds the memory of a step to about 10 MB."""

COMPARISONS = 2e10
"""Pairs that a search may compare, a quarter of an hour of one core: enough for 1.4 million portraits."""


@dataclass(frozen=True)
class DuplicateGroup:
    """Portraits that are copies of one picture, in the order of the dataset; the tuples are parallel.

    Groups are closed under "is a near-duplicate of": a copy of a copy belongs to the group, even when it lies
    beyond the threshold of the first.

    Attributes:
        ids: of the portraits; byte-identical files share theirs.
        source_uris: where the pictures lie.
        splits: "train" or "test" of each.
        places: (shard, row) of each in the prepared dataset.
    """

    ids: tuple[str, ...]
    source_uris: tuple[str, ...]
    splits: tuple[str, ...]
    places: tuple[tuple[int, int], ...]

    @property
    def crosses_splits(self) -> bool:
        """Whether copies are in both splits, so that a test would meet what was trained on."""
        return len(set(self.splits)) > 1


def affordable_threshold(portraits: int) -> int:
    """Returns the largest threshold, at most SAME_PICTURE, for which COMPARISONS are enough.

    The pairs grow like the square of the portraits, and each further bit multiplies them: 10 million portraits can be
    searched for copies that differ in 15 bits, as a picture does that was filed twice or saved anew.
    """

    def pairs(threshold: int) -> float:
        radius, rest = divmod(threshold, _BANDS)
        masks = (rest + 1) * len(_masks(radius)) + (_BANDS - rest - 1) * len(_masks(radius - 1))
        return masks * portraits**2 / 2 / 2**_BAND_BITS

    return next((bits for bits in range(SAME_PICTURE, 0, -1) if pairs(bits) <= COMPARISONS), 0)


def find_near_duplicates(out: str, threshold: int = SAME_PICTURE) -> list[DuplicateGroup]:
    """Finds the groups of near-duplicate portraits of a prepared dataset, in the order of their first members.

    Memory is 250 bytes a portrait. The work grows like the square of their number, but only a few per
    cent of the pairs are compared: on one core 6 seconds for 100,000 portraits, 36 for 300,000 (see
    `affordable_threshold`).

    Args:
        out: the prepared dataset, a path or URL.
        threshold: two portraits are near-duplicates if their hashes differ in at most so many bits.

    Raises:
        CapriciousError: a shard has no perceptual hashes of this version.
    """
    shards = sorted(read_receipts(out))
    hashes, starts = [np.zeros((0, BITS // 8), np.uint8)], [0]
    tables = ahead(partial(read_shard, out, "portraits", columns=["perceptual_hash"]), shards)
    for shard, table in zip(shards, tables, strict=True):
        hashes.append(_hashes(table, out, shard))
        starts.append(starts[-1] + len(hashes[-1]))
    groups = group_by_distance(np.concatenate(hashes), threshold)

    wanted: dict[int, list[int]] = defaultdict(list)
    for row in np.concatenate([np.zeros(0, np.int64), *groups]):
        number = int(np.searchsorted(starts, row, "right")) - 1
        wanted[number].append(int(row))
    found: dict[int, tuple[str, str, str, tuple[int, int]]] = {}
    named = partial(read_shard, out, "portraits", columns=["id", "source_uri", "split"])
    tables = ahead(named, [shards[number] for number in wanted])
    for (number, rows), table in zip(wanted.items(), tables, strict=True):
        local = [row - starts[number] for row in rows]
        for row, at, values in zip(rows, local, table.take(local).to_pylist(), strict=True):
            found[row] = (values["id"], values["source_uri"], values["split"], (shards[number], at))
    return [DuplicateGroup(*zip(*(found[row] for row in group.tolist()), strict=True)) for group in groups]


def _hashes(table: pa.Table, out: str, shard: int) -> np.ndarray:
    """Returns the hashes of a shard as N×32 uint8."""
    values = table["perceptual_hash"].to_pylist()
    for row, value in enumerate(values):
        if value is None or len(value) != BITS // 8:
            raise CapriciousError(
                f"{shard_uri(out, 'portraits', shard)}, row {row}: perceptual_hash must have {BITS // 8} bytes, "
                f"found: {value!r}; prepare it again"
            )
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), BITS // 8)


def group_by_distance(hashes: np.ndarray, threshold: int) -> list[np.ndarray]:
    """Returns the connected components of "differs in at most `threshold` bits" that have two members or more.

    Args:
        hashes: N×32 uint8.
        threshold: 0…BITS − 1 bits.

    Returns:
        Ascending row numbers of each component, sorted by the first.

    Raises:
        ValueError: shape, dtype or threshold is none of these.
    """
    if hashes.ndim != 2 or hashes.shape[1] != BITS // 8 or hashes.dtype != np.uint8:
        raise ValueError(f"hashes must be N×{BITS // 8} uint8, found: {hashes.shape} {hashes.dtype}")
    if not 0 <= threshold < BITS:
        raise ValueError(f"threshold must be in 0…{BITS - 1}, found: {threshold}")
    # Equal hashes first, so that a collection that holds one picture 100,000 times does not have 10¹⁰ pairs.
    whole = np.ascontiguousarray(hashes).view(f"V{BITS // 8}")[:, 0]
    whole, inverse = np.unique(whole, return_inverse=True)
    distinct = whole.view(np.uint8).reshape(-1, BITS // 8)
    component = _components(len(distinct), _near_pairs(distinct, threshold))[inverse]
    order = np.argsort(component, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def _near_pairs(hashes: np.ndarray, threshold: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pairs of rows within the threshold, some of them several times.

    The bits are dealt to m bands. If two hashes differ in at most r·m + a bits (a < m), then they differ in at most
    r bits in one of the first a + 1 bands, or in at most r − 1 bits in one of the others: else they would differ in
    (a + 1)(r + 1) + (m − a − 1)·r = r·m + a + 1 bits (Norouzi et al., proposition 2).
    """
    radius, rest = divmod(threshold, _BANDS)
    words = np.ascontiguousarray(hashes).view(np.uint64)
    for band, keys in enumerate(_band_keys(hashes)):
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        first, second = words[order, 0], words[order, 1]
        ends = np.cumsum(np.bincount(keys, minlength=1 << _BAND_BITS))
        for mask in _masks(radius if band <= rest else radius - 1):
            for a, b in _bucket_pairs(keys, ends, mask):
                # Half of the bits tells nearly all pairs apart, and single columns are several times faster than rows.
                differ = np.bitwise_count(first[a] ^ first[b]) + np.bitwise_count(second[a] ^ second[b])
                maybe = differ <= threshold
                a, b = order[a[maybe]], order[b[maybe]]
                near = hamming_many(words[a], words[b]) <= threshold
                if near.any():
                    yield a[near], b[near]


def _band_keys(hashes: np.ndarray) -> np.ndarray:
    """Returns the bands of each hash as numbers, bands×N uint16.

    Bits are dealt at random: neighbouring frequencies go together, and a band of them would have few values.
    """
    deal = np.random.default_rng(0).permutation(BITS)
    keys = np.empty((_BANDS, len(hashes)), np.uint16)
    for start in range(0, len(hashes), _AT_ONCE):  # a bit takes a byte meanwhile
        rows = hashes[start : start + _AT_ONCE]
        bits = np.unpackbits(rows, axis=1)[:, deal].reshape(len(rows), _BANDS, _BAND_BITS)
        keys[:, start : start + len(rows)] = np.packbits(bits, axis=2).view(">u2")[..., 0].T
    return keys


def _masks(radius: int) -> list[int]:
    """Returns all patterns of at most `radius` flipped bits in a band; none for a negative radius."""
    return [sum(1 << bit for bit in flips) for n in range(radius + 1) for flips in combinations(range(_BAND_BITS), n)]


def _bucket_pairs(keys: np.ndarray, ends: np.ndarray, mask: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, in bounded pieces, all i < j with keys[i] ^ mask == keys[j], for sorted keys."""
    partner = keys ^ np.uint16(mask)
    stop = ends[partner]
    start = np.concatenate([[0], ends])[partner]
    start = np.maximum(start, np.arange(1, len(keys) + 1))
    count = np.maximum(stop - start, 0)
    total = np.cumsum(count)
    first = 0
    while first < len(keys):
        done = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, done + _AT_ONCE, "right")))
        part = count[first:last]
        a = np.repeat(np.arange(first, last), part)
        b = np.arange(len(a)) + np.repeat(start[first:last] - (total[first:last] - part - done), part)
        if len(a):
            yield a, b
        first = last


def _components(rows: int, pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Returns for each row the smallest member of its component.

    Joining goes over all rows, however few pairs there are; so it waits until there are many.
    """
    component, waiting, size = np.arange(rows), [], 0
    for a, b in pairs:
        apart = component[a] != component[b]
        waiting.append((a[apart], b[apart]))
        size += int(apart.sum())
        if size > _AT_ONCE:
            component = _join(component, *map(np.concatenate, zip(*waiting, strict=True)))
            waiting, size = [], 0
    return _join(component, *map(np.concatenate, zip(*waiting, strict=True))) if waiting else component


def _join(component: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Joins the components of a[i] and b[i] for all i; a component is named by its smallest member."""
    while True:
        one, other = component[a], component[b]
        if (one == other).all():
            return component
        np.minimum.at(component, np.maximum(one, other), np.minimum(one, other))
        while (component != component[component]).any():
            component = component[component]
