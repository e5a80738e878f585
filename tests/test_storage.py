"""Local files and a real S3-compatible server, by the same functions."""

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capricious.data import storage
from capricious.data.collections import read_collection
from capricious.errors import CapriciousError


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_what_is_written_is_listed_and_read(root):
    for name in ("b.jpg", "a/c.jpg"):
        storage.write_atomic(storage.join(root, name), name.encode())
    files = storage.list_files(root)
    assert [file.removeprefix(root) for file in files] == ["/a/c.jpg", "/b.jpg"]
    assert [storage.read(file) for file in files] == [b"a/c.jpg", b"b.jpg"]
    assert storage.exists(files[0]) and not storage.exists(storage.join(root, "d.jpg"))


def test_writing_again_replaces_the_file_and_leaves_nothing_else(root):
    uri = storage.join(root, "x")
    storage.write_atomic(uri, b"old")
    storage.write_atomic(uri, b"new")
    assert storage.read(uri) == b"new"
    assert storage.list_files(root) == [uri]


def test_a_missing_file_is_told_as_such(root):
    storage.write_atomic(storage.join(root, "x"), b"")
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(root, "gone"))


def test_a_collection_with_labels_is_read_from_anywhere(root):
    storage.write_atomic(storage.join(root, "a.jpg"), b"picture")
    storage.write_atomic(storage.join(root, "labels.csv"), b"file,age\na.jpg,61\n")
    (source,) = read_collection(root)
    assert source.uri == storage.join(root, "a.jpg") and source.labels.age == 61.0


def test_pictures_in_tars_and_parquet_files_are_read_in_place_from_anywhere(root):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in (("0.jpg", b"first"), ("0.json", b'{"age": 61}'), ("1.jpg", b""), ("1.json", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    storage.write_atomic(storage.join(root, "tars", "shard-0.tar"), tar.getvalue())
    parquet = io.BytesIO()
    pq.write_table(pa.table({"image": [b"second"], "age": [5]}), parquet)
    storage.write_atomic(storage.join(root, "tables", "a.parquet"), parquet.getvalue())

    first, empty = read_collection(storage.join(root, "tars"))
    assert (first.read(), first.labels.age) == (b"first", 61.0)
    assert first.uri == storage.join(root, "tars", "shard-0.tar!0.jpg")
    assert empty.refused and "1.json" in empty.refused[2]
    assert list(read_collection(storage.join(root, "tars", "shard-0.tar"))) == [first, empty]
    (second,) = read_collection(storage.join(root, "tables"))
    assert (second.read(), second.labels.age) == (b"second", 5.0)


def test_ffhq_is_read_from_anywhere(root):
    for name, data in (("images1024x1024/00000/00000.png", b"x"), ("ffhq-features/00000.json", b"[]")):
        storage.write_atomic(storage.join(root, name), data)
    (source,) = read_collection(root)
    assert source.read() == b"x" and source.refused is None


def test_spans(root):
    uri = storage.join(root, "x")
    storage.write_atomic(uri, bytes(range(100)))
    assert storage.read(uri, (10, 3)) == bytes([10, 11, 12])
    assert storage.read(uri, (10, 0)) == b""
    assert storage.read_at_most(uri, 5) == bytes(range(5)) and len(storage.read_at_most(uri, 1000)) == 100
    with pytest.raises(OSError, match="asked for 20 bytes at 90, got 10"):
        storage.read(uri, (90, 20))
    with pytest.raises(OSError):
        storage.read(uri, (200, 20))


@pytest.mark.parametrize("first", [3, 10, 11, 100])
def test_a_file_within_a_limit_and_one_that_is_larger(root, monkeypatch, first):
    monkeypatch.setattr(storage, "FIRST", first)
    uri = storage.join(root, "x")
    storage.write_atomic(uri, b"0123456789")
    assert storage.read_within(uri, 10) == storage.read_within(uri, 1000) == b"0123456789"
    assert storage.read_within(uri, 9) is None
    with pytest.raises(FileNotFoundError):
        storage.read_within(storage.join(root, "gone"), 10)


def test_of_a_file_that_is_too_large_little_is_read(root, monkeypatch):
    monkeypatch.setattr(storage, "FIRST", 3)
    uri = storage.join(root, "x")
    storage.write_atomic(uri, b"0123456789")
    fs, _ = storage.locate(uri)
    read, lengths = fs.cat_file, []
    monkeypatch.setattr(fs, "cat_file", lambda *args, **span: lengths.append(len(data := read(*args, **span))) or data)
    assert storage.read_within(uri, 9) is None
    assert sum(lengths) <= 4


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """As processes of two machines that share a disk and have the same number do."""
    uri = str(tmp_path / "x")
    with storage.atomic_writer(uri) as slow:
        slow.write(b"slow")
        storage.write_atomic(uri, b"fast")
        assert storage.read(uri) == b"fast"
    assert storage.read(uri) == b"slow" and storage.list_files(str(tmp_path)) == [uri]


def test_many_at_once_give_each_its_bytes_or_its_error(root):
    uri = storage.join(root, "x")
    storage.write_atomic(uri, b"0123456789")
    whole, part, none, short, gone = storage.read_many(
        [(uri, None), (uri, (3, 4)), (uri, (0, 0)), (uri, (8, 4)), (storage.join(root, "gone"), None)]
    )
    assert (whole, part, none) == (b"0123456789", b"3456", b"")
    assert isinstance(short, OSError) and isinstance(gone, FileNotFoundError)


def test_an_empty_file_is_empty(root):
    storage.write_atomic(storage.join(root, "x"), b"")
    assert storage.read(storage.join(root, "x")) == storage.read_at_most(storage.join(root, "x"), 9) == b""
    with pytest.raises(FileNotFoundError):
        storage.read_at_most(storage.join(root, "gone"), 9)


def test_a_file_is_opened_for_reading_here_and_there(root):
    storage.write_atomic(storage.join(root, "x"), bytes(range(100)))
    with storage.open_binary(storage.join(root, "x")) as file:
        file.seek(50)
        assert file.read(2) == bytes([50, 51])


def test_what_others_have_written_since_is_seen(root):
    assert not storage.exists(storage.join(root, "a", "x"))
    storage.write_atomic(storage.join(root, "a", "y"), b"")
    assert storage.list_files(root) == [storage.join(root, "a", "y")]
    # Another process, which this one's memory of listings would not know of.
    fs, path = storage.locate(storage.join(root, "a", "x"))
    type(fs)(skip_instance_cache=True).pipe_file(path, b"")
    assert storage.exists(storage.join(root, "a", "x")) and len(storage.list_files(root)) == 2


def test_links_are_followed_once_and_pipes_are_not_waited_for(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"a")
    (tmp_path / "pictures").mkdir()
    for name, target in (("linked", "../elsewhere"), ("circle", "../pictures"), ("twice", "../elsewhere")):
        (tmp_path / "pictures" / name).symlink_to(target)
    (tmp_path / "pictures" / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "pictures" / "b.jpg").symlink_to("../elsewhere/a.jpg")
    os.mkfifo(tmp_path / "pictures" / "pipe.jpg")
    found = [file.removeprefix(f"{tmp_path}/pictures/") for file in storage.list_files(str(tmp_path / "pictures"))]
    assert found == ["b.jpg", "broken.jpg", "linked/a.jpg"]


def test_a_bundle_sized_folder_is_downloaded(root, tmp_path):
    storage.write_atomic(storage.join(root, "bundle", "bundle.json"), b"{}")
    (tmp_path / "copy").mkdir()
    storage.download_folder(storage.join(root, "bundle"), str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "bundle.json").read_bytes() == b"{}"


def test_other_schemes_are_refused():
    with pytest.raises(CapriciousError, match="cannot open http:// addresses; must be a path or one of file, s3"):
        storage.read("http://example.org/a.jpg")


def test_the_store_is_the_one_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    storage._filesystem.cache_clear()
    first, _ = storage.locate("s3://museum")
    first.connect()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    storage._filesystem.cache_clear()
    second, _ = storage.locate("s3://museum")
    second.connect()
    storage._filesystem.cache_clear()
    assert (first.s3.meta.endpoint_url, second.s3.meta.endpoint_url) == ("http://127.0.0.1:1", "http://127.0.0.1:2")
