"""Whose fault it is that a picture cannot be read: its own, or the store's."""

import errno

import pytest

from capricious.cluster import reading
from capricious.cluster.reading import READ_AHEAD
from capricious.cluster.shards import ShardWorker
from capricious.data.collections import Source, web
from capricious.data.collections import source as source_module
from capricious.errors import CapriciousError, StoreFault


def pictures(count, bucket="s3://museum"):
    return [Source(f"{bucket}/{number}.jpg") for number in range(count)]


@pytest.fixture
def store(monkeypatch):
    """A store whose answers a test decides: by address an error to raise, else there are bytes."""
    answers = {}

    def read(uri, limit):
        if uri in answers:
            raise answers[uri]
        return b"a picture"

    monkeypatch.setattr(source_module.storage, "read_within", read)
    return answers


def reasons(sources, worker=None):
    worker = worker or ShardWorker("unused")
    return [
        result if result == "done" else f"{result['stage']}: {result['reason']}: {result['detail']}"
        for _, result in worker.attempt(sources, lambda source, data: "done")
    ]


@pytest.mark.parametrize("number", [0, 2, 3])
def test_one_object_that_is_denied_is_that_pictures_fault(store, number):
    store[f"s3://museum/{number}.jpg"] = PermissionError("Access Denied")
    found = reasons(pictures(4))
    assert found.pop(number) == "read: unreadable: Access Denied"
    assert found == ["done"] * 3


def test_a_bucket_that_denies_everything_stops_the_shard(store):
    for source in pictures(20):
        store[source.uri] = PermissionError("Access Denied")
    with pytest.raises(CapriciousError, match="0.jpg cannot be read, nor can others there: Access Denied; "):
        reasons(pictures(20))


def test_a_file_that_is_damaged_as_far_as_a_shard_reaches_is_no_fault_of_the_store(store):
    for source in pictures(4):
        store[source.uri] = OSError("Corrupt snappy compressed data.")
    assert reasons(pictures(4)) == ["read: unreadable: Corrupt snappy compressed data."] * 4


def test_a_disk_that_is_failing_stops_the_shard(store):
    for source in pictures(4):
        store[source.uri] = OSError(errno.ESTALE, "Stale file handle")
    with pytest.raises(CapriciousError, match="Stale file handle"):
        reasons(pictures(4))


def test_access_that_is_lost_in_mid_work_stops_the_next_shard(store):
    worker = ShardWorker("unused")
    assert reasons(pictures(1), worker) == ["done"]
    for source in pictures(2):
        store[source.uri] = PermissionError("The provided token has expired.")
    with pytest.raises(CapriciousError, match="token has expired.; put that right and run the same command again"):
        reasons(pictures(2)[1:], worker)


def test_a_store_that_is_back_when_a_picture_is_wanted_is_asked_again(store):
    def do(source, data):
        store.clear()
        return data

    for source in pictures(4)[1:]:  # read ahead while the first is worked on
        store[source.uri] = PermissionError("The provided token has expired.")
    assert [data for _, data in ShardWorker("unused").attempt(pictures(4), do)] == [b"a picture"] * 4


def test_the_only_picture_of_a_foreign_bucket_says_nothing_of_the_others(store):
    store["s3://musuem/0.jpg"] = PermissionError("Access Denied")
    assert reasons([*pictures(2), *pictures(1, "s3://musuem")]) == ["done", "done", "read: unreadable: Access Denied"]


def test_a_store_that_does_not_answer_stops_the_shard_at_once(store):
    store["s3://museum/1.jpg"] = StoreFault("the object store cannot be reached")
    with pytest.raises(CapriciousError, match="cannot be reached; put that right and run the same command again"):
        reasons(pictures(3))


def test_hosts_on_the_web_come_and_go(monkeypatch):
    def fetch(url, allowed, limit):
        raise OSError("gave up after 5 attempts: the server answers 503")

    monkeypatch.setattr(web, "fetch", fetch)
    assert reasons(pictures(3, "https://iiif.museum.org"))[2].startswith("read: unreadable: gave up")


def test_more_files_than_are_read_ahead_keep_their_order(store):
    sources = pictures(3 * READ_AHEAD)
    assert [source for source, _ in ShardWorker("unused").attempt(sources, lambda source, data: None)] == sources


def test_of_large_pictures_fewer_wait(store, monkeypatch):
    monkeypatch.setattr(reading, "HELD_BYTES", 3 * len(b"a picture"))
    worker, submitted = ShardWorker("unused"), []
    for number, _ in enumerate(worker.attempt(Watched(pictures(30), submitted), lambda source, data: None)):
        if number > READ_AHEAD:  # what was begun before the first size was known has passed
            assert len(submitted) <= number + 1 + 3
    assert len(submitted) == 30


class Watched(list):
    """Sources that tell which of them were taken."""

    def __init__(self, sources, taken):
        super().__init__(sources)
        self.taken = taken

    def __iter__(self):
        for source in super().__iter__():
            self.taken.append(source)
            yield source
