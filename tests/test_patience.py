"""An object store that is away for a moment or busy: asked again, not given up. A small server plays the store."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from conftest import free_ports

from capricious.data import storage
from capricious.data.object_store import ObjectStore
from capricious.errors import StoreFault


class Store(BaseHTTPRequestHandler):
    refusals: ClassVar[list[int]] = []
    names: ClassVar[dict[int, str]] = {403: "AccessDenied", 400: "ExpiredToken"}

    def do_GET(self) -> None:
        code = self.refusals.pop(0) if self.refusals else 200
        name = self.names.get(code, "ServiceUnavailable")
        body = b"a portrait" if code == 200 else f"<Error><Code>{name}</Code><Message/></Error>".encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:  # how long is it?
        self.send_response(200)
        self.send_header("Content-Length", str(len(b"a portrait")))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def port(monkeypatch):
    (port,) = free_ports(1)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # botocore's own patience is not what is tested
    }.items():
        monkeypatch.setenv(name, value)
    storage._filesystem.cache_clear()
    yield port
    storage._filesystem.cache_clear()


def serve(port: int) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", port), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_a_busy_store_is_asked_again(port, monkeypatch):
    monkeypatch.setattr(Store, "refusals", [503, 500, 503])
    server = serve(port)
    assert storage.read("s3://museum/portrait.jpg") == b"a portrait"
    assert not Store.refusals
    server.shutdown()


def test_a_store_that_is_being_restarted_is_waited_for(port):
    started = []

    def later() -> None:
        time.sleep(2)
        started.append(serve(port))

    thread = threading.Thread(target=later)
    thread.start()
    assert storage.read("s3://museum/portrait.jpg") == b"a portrait"
    thread.join()
    started[0].shutdown()


def test_what_is_forbidden_is_not_asked_again(port, monkeypatch):
    monkeypatch.setattr(Store, "refusals", [403] * 2)
    server = serve(port)
    with pytest.raises(PermissionError):
        storage.read("s3://museum/portrait.jpg")
    assert len(Store.refusals) == 1
    server.shutdown()


def test_credentials_that_have_expired_are_the_stores_fault_and_no_files(port, monkeypatch):
    monkeypatch.setattr(Store, "refusals", [400] * 2)
    server = serve(port)
    with pytest.raises(StoreFault, match="accepts no credentials of ours"):
        storage.read("s3://museum/portrait.jpg", (0, 3))
    server.shutdown()


ASKING = [
    lambda: storage.read_at_most("s3://museum/portrait.jpg", 10),
    lambda: storage.read_many([("s3://museum/portrait.jpg", (0, 3))]),
    lambda: storage.write_atomic("s3://museum/portrait.jpg", b""),
    lambda: storage.exists("s3://museum"),
    lambda: storage.exists("s3://museum/portrait.jpg"),
    lambda: storage.list_files("s3://museum/portraits"),
    lambda: storage.open_binary("s3://museum/portrait.jpg"),
]


@pytest.mark.parametrize("ask", ASKING)
def test_a_store_that_stays_away_is_told_as_such(port, monkeypatch, ask):
    monkeypatch.setattr(ObjectStore, "retries", 2)
    with pytest.raises(StoreFault, match="cannot be reached: Could not connect"):
        ask()


@pytest.mark.parametrize("ask", ASKING)
def test_missing_credentials_are_told_as_such(port, monkeypatch, tmp_path, ask):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreFault, match="Unable to locate credentials"):
        ask()
