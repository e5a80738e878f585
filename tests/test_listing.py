"""A listing of millions: pages of names, and headers of tars without the pictures between them."""

import io
import tarfile

import fsspec.asyn
import pytest

from capricious.data import skipping, storage
from capricious.data.collections import read_collection
from capricious.data.collections.tar import Tar
from capricious.data.listing import keys_below


class Pages:
    """Answers list_objects_v2 as a store does, two keys at a time."""

    loop = fsspec.asyn.get_loop()

    def __init__(self, *keys):
        self.keys, self.asked = keys, []

    async def _call_s3(self, method, **options):
        assert method == "list_objects_v2"
        self.asked.append(options)
        found = [key for key in self.keys if key.startswith(options["Prefix"])]
        start = int(options.get("ContinuationToken", 0))
        page = {"Contents": [{"Key": key} for key in found[start : start + 2]]} if found else {}
        return {**page, "IsTruncated": start + 2 < len(found), "NextContinuationToken": str(start + 2)}


def test_keys_come_page_by_page():
    store = Pages(*(f"halls/{n}/front.jpg" for n in range(7)), "hallsmith.jpg")
    keys = keys_below(store, "museum/halls")
    assert [next(keys), next(keys)] == ["museum/halls/0/front.jpg", "museum/halls/1/front.jpg"]
    assert len(store.asked) == 1
    assert len(list(keys)) == 5 and len(store.asked) == 4


def test_hidden_objects_and_such_as_stand_for_folders_are_left_out():
    store = Pages("a.jpg", "b/", "b/.hidden", "b/.thumbs/c.jpg", "b/c.jpg", ".d/e.jpg")
    assert list(keys_below(store, "museum")) == ["museum/a.jpg", "museum/b/c.jpg"]
    assert list(keys_below(store, "museum/.d")) == ["museum/.d/e.jpg"]
    assert list(keys_below(store, "museum/nothing")) == []


def test_thousands_of_folders_are_listed_in_an_object_store(bucket):
    fs, path = storage.locate(f"{bucket}/objects")
    fs.pipe({f"{path}/{n:04d}/front.jpg": b"x" for n in range(1100)})  # a page has 1000
    found = storage.list_files(f"{bucket}/objects")
    assert found == [f"{bucket}/objects/{n:04d}/front.jpg" for n in range(1100)]


def write_tar(uri, members, size):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for number in range(members):
            info = tarfile.TarInfo(f"{number:03d}.jpg")
            info.size = size
            archive.addfile(info, io.BytesIO(bytes([number]) * size))
    storage.write_atomic(uri, tar.getvalue())
    return len(tar.getvalue())


@pytest.mark.parametrize(("size", "requests", "share"), [(3_000_000, 20, 0.1), (100_000, 2, 1.0)])
def test_what_lies_between_headers_is_fetched_only_where_that_is_quicker(bucket, monkeypatch, size, requests, share):
    uri = f"{bucket}/{size}.tar"
    whole = write_tar(uri, 20, size)
    fetched, read = [], storage.read

    def counted(uri, span=None):
        fetched.append(span[1])
        return read(uri, span)

    monkeypatch.setattr(skipping.storage, "read", counted)
    tar = Tar(uri)
    assert tar.fault is None and len(tar.names) == 20
    assert len(fetched) <= requests and sum(fetched) <= share * whole
    monkeypatch.undo()
    assert [source.read()[:2] for source in read_collection(uri)][7] == b"\7\7"
