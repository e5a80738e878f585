"""An object store that is away for a moment or busy: asked again, not given up. A small server plays the store."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from conftest import free_ports

from capricious.data import storage


class Store(BaseHTTPRequestHandler):
    refusals: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        code = self.refusals.pop(0) if self.refusals else 200
        name = "AccessDenied" if code == 403 else "ServiceUnavailable"
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
