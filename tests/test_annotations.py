"""Faces from a prepared dataset: where they are is looked up once, and a worker reads only what it needs."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from test_prepared import REJECT, a_portrait, write_shard

from capricious.data import storage
from capricious.data.annotations import PreparedAnnotations, PreparedIndex, fingerprint
from capricious.data.collections import Source
from capricious.data.collections.parts import write_part
from capricious.data.prepared import write_manifest
from capricious.errors import CapriciousError, Rejection
from capricious.faces.image import encode


@pytest.fixture
def dataset(tmp_path):
    """Five shards of two pictures, the second with two faces; the last shard has a reject, too."""
    out, crop = str(tmp_path), encode(np.zeros((16, 16, 3), np.uint8), "png")
    for shard in range(5):
        portraits = [replace(a_portrait(2 * shard + i), image=crop, label_map=crop) for i in (0, 1)]
        portraits.insert(1, replace(portraits[1], face=1))
        write_shard(out, shard, portraits, [REJECT] if shard == 4 else [])
        uris = sorted({portrait.source_uri for portrait in portraits} | ({REJECT["uri"]} if shard == 4 else set()))
        write_part(out, shard, [Source(uri) for uri in uris])
    write_manifest(out, 5, {"source": "x"}, 64)
    return out


def looked_up(dataset, *uris):
    return list(PreparedIndex(dataset).looked_up(map(Source, uris)))


def test_each_picture_is_looked_up_by_its_address(dataset):
    found = looked_up(dataset, "s3://museum/9.jpg", "s3://museum/0.jpg", REJECT["uri"], "s3://museum/10.jpg")
    assert [source.prepared for source in found] == [4, 0, 4, None]
    assert [source.refused and source.refused[:2] for source in found] == [None] * 3 + [("prepared", "not-prepared")]
    refused = Source("s3://museum/11.jpg").refuse("bad-label", "line 3")
    assert list(PreparedIndex(dataset).looked_up([refused])) == [refused]  # the first reason is the one to tell


def test_a_worker_reads_the_shards_of_its_own_pictures_and_no_others(dataset, monkeypatch):
    sources = looked_up(dataset, "s3://museum/2.jpg", "s3://museum/3.jpg")
    opened, read = [], storage.read
    monkeypatch.setattr(storage, "read", lambda uri: opened.append(uri) or read(uri))
    monkeypatch.setattr(storage, "open_binary", lambda uri: pytest.fail(f"{uri} was opened"))
    annotations = PreparedAnnotations(dataset)
    ages = [[face.attributes.age for face in annotations.faces(source, "")] for source in sources]
    assert ages == [[2], [3, 3]]
    assert opened == [f"{dataset}/portraits/part-00001.parquet"]


def test_a_picture_that_has_changed_is_rejected(dataset):
    (source,) = looked_up(dataset, "s3://museum/2.jpg")
    with pytest.raises(Rejection, match="another file"):
        PreparedAnnotations(dataset).faces(source, "0" * 64)


def test_a_reject_that_is_looked_up_keeps_nothing_of_who_asked(dataset):
    annotations, (source,) = PreparedAnnotations(dataset), looked_up(dataset, REJECT["uri"])

    def ask() -> weakref.ref:
        scan = np.zeros(3)
        with pytest.raises(Rejection, match="decode: not-a-picture: …"):
            annotations.faces(source, "")
        return weakref.ref(scan)

    scans = [ask() for _ in range(3)]
    gc.collect()
    assert [scan() for scan in scans] == [None] * 3


def test_a_dataset_of_small_crops_is_refused_before_the_work_begins(dataset):
    assert len(fingerprint(dataset, 64)) == 64
    with pytest.raises(CapriciousError, match=r"64 px, the bundle renders at 128; .* --annotator.resolution 128"):
        fingerprint(dataset, 128)
