"""Local files and a real S3-compatible server, by the same functions."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capricious.data import storage
from capricious.data.collections import read_collection
from capricious.errors import CapriciousError


def free_ports(count: int) -> list[int]:
    """Ports that are free, as are those 10000 above them, which the server opens for gRPC."""

    def is_free(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    found = (port for port in range(21000 + os.getpid() % 1000, 30000) if is_free(port) and is_free(port + 10000))
    return list(itertools.islice(found, count))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """An empty bucket on a SeaweedFS server that knows one key."""
    folder = tmp_path_factory.mktemp("s3")
    identity = {
        "name": "test",
        "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    port, master, volume, filer = free_ports(4)
    weed = str(Path(sys.executable).with_name("weed"))
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    command += ["-filer=true", "-s3=true", f"-s3.port={port}", f"-s3.config={folder}/s3.json"]
    command += ["-volume.max=20", "-master.volumeSizeLimitMB=64"]
    before = dict(os.environ)
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID="testkey",
        AWS_SECRET_ACCESS_KEY="testsecret",
        AWS_DEFAULT_REGION="us-east-1",
    )
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield _bucket_when_up(f"museum-{port}", deadline=time.monotonic() + 90)
    finally:
        server.kill()  # it would take half a minute to say goodbye
        server.wait()
        storage._filesystem.cache_clear()
        os.environ.clear()
        os.environ.update(before)


def _bucket_when_up(name: str, deadline: float) -> str:
    while True:
        fs, _ = storage.locate(f"s3://{name}")
        try:
            fs.mkdir(name)
            return f"s3://{name}"
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                raise
            storage._filesystem.cache_clear()
            time.sleep(1)


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


def test_a_bundle_sized_folder_is_downloaded(root, tmp_path):
    storage.write_atomic(storage.join(root, "bundle", "bundle.json"), b"{}")
    (tmp_path / "copy").mkdir()
    storage.download_folder(storage.join(root, "bundle"), str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "bundle.json").read_bytes() == b"{}"


def test_other_schemes_are_refused():
    with pytest.raises(CapriciousError, match="cannot open http:// addresses; must be a path or one of file, s3"):
        storage.read("http://example.org/a.jpg")
