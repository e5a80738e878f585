"""The client's patience, against a server that is as bad as a service whose replicas die."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from capricious.client import Client, ServiceProblem, _lines

PROBLEM = b'{"status": 422, "stage": "decode", "reason": "not-an-image", "detail": "this is a letter"}'


@pytest.fixture
def server():
    """Yields its address, the answers that it is to give: (status, headers, body) each, None to hang up; and what it
    was asked, with which idempotency keys."""
    answers, asked, keys = [], [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.rfile.read(int(self.headers.get("content-length", 0))))
            keys.append(self.headers["idempotency-key"])
            if (answer := answers.pop(0)) is None:
                self.connection.close()
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_DELETE = do_POST

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", answers, asked, keys
    running.shutdown()
    thread.join()
    running.server_close()


def test_what_passes_is_asked_again(server):
    url, answers, asked, _ = server
    answers += [(500, {}, b"Internal Server Error"), None, (429, {"retry-after": "1"}, b"{}"), (200, {}, b"picture")]
    with Client(url) as service:
        assert service.render(b"photo", age=70) == b"picture"
    assert len(asked) == 4 and all(b"photo" in body for body in asked)


def test_a_stream_is_asked_again_until_it_begins(server):
    url, answers, asked, _ = server
    answers += [None, (200, {}, b'{"kind": "variant", "name": "age-70", "changes": {}, "images": []}\n')]
    with Client(url) as service, pytest.raises(ServiceProblem, match="before it was complete"):
        assert [variant.name for variant in service.stream(b"photo")] == ["age-70"]
    assert len(asked) == 2


def test_what_stays_wrong_is_told_at_once_and_patience_ends(server):
    url, answers, asked, _ = server
    own = {"content-type": "application/problem+json"}
    answers += [(422, own, PROBLEM), (500, own, PROBLEM.replace(b"422", b"500")), (503, {}, b"{}")]
    with Client(url, patience=0) as hasty, Client(url) as service:
        for client, status in ((service, 422), (service, 500), (hasty, 503)):
            with pytest.raises(ServiceProblem) as caught:
                client.annotate(b"photo")
            assert caught.value.status == status
        assert len(asked) == 3


def test_a_batch_is_submitted_again_under_the_same_key(server):
    url, answers, asked, keys = server
    answers += [None, (202, {}, b'{"id": "render-1"}'), (202, {}, b'{"id": "render-2"}')]
    with Client(url) as service:
        assert service.submit_batch("s3://museum/in", "s3://museum/out")["id"] == "render-1"
        assert service.submit_batch("s3://museum/in", "s3://museum/out")["id"] == "render-2"
    assert len(set(asked)) == 1 and keys[0] == keys[1] != keys[2]


def test_a_batch_is_followed_and_stopped_with_the_same_patience(server):
    url, answers, asked, _ = server
    busy = (503, {"retry-after": "1"}, b"{}")
    row = {"uri": "s3://museum/König\u0085\u2028.jpg", "status": "ok"}
    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for _ in range(3))
    running, stopped = (200, {}, b'{"status": "running"}'), (202, {}, b'{"status": "stopped"}')
    answers += [None, running, busy, (200, {}, lines), busy, stopped]
    with Client(url) as service:
        assert service.batch("render-1")["status"] == "running"
        assert list(service.batch_results("render-1")) == [row] * 3
        assert service.cancel_batch("render-1")["status"] == "stopped"
    assert len(asked) == 6


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_are_cut_at_line_feeds_wherever_the_chunks_end(size):
    text = "a\u0085b\r\n\nc".encode()
    chunks = (text[i : i + size] for i in range(0, len(text), size))
    assert list(_lines(chunks)) == ["a\u0085b\r".encode(), b"", b"c"]
