"""What stands in Ray's proxy, before an application that dies with requests in hand."""

import asyncio

import httpx
import pytest

from serve import proxy
from serve.proxy import AskAgain, middlewares


class Ingress:
    """Reads a part of the body, then ends without an answer as often as it is told; then it sends the body back."""

    def __init__(self, deaths: int, reads: int = 1):
        self.deaths, self.reads = deaths, reads
        self.asked = 0

    async def __call__(self, scope, receive, send):
        self.asked += 1
        scope["path"] += "/changed"  # as a router does
        if self.asked <= self.deaths:
            for _ in range(self.reads):
                await receive()
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode() + b" " + body})


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(proxy, "PAUSE_S", 0.0)


def ask(ingress, method: str = "POST", path: str = "/some/v1/renders", parts: tuple[bytes, ...] = (b"a", b"b", b"c")):
    async def body():
        for part in parts:
            yield part

    async def send():
        transport = httpx.ASGITransport(AskAgain(ingress))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, content=body())

    return asyncio.run(send())


@pytest.mark.parametrize("reads", [0, 1, 3])
def test_another_ingress_gets_the_whole_request(reads):
    ingress = Ingress(deaths=2, reads=reads)
    answer = ask(ingress)
    assert answer.status_code == 200 and answer.content == b"/some/v1/renders/changed abc"
    assert ingress.asked == 3


def test_a_request_that_kills_every_ingress_is_a_problem():
    ingress = Ingress(deaths=99)
    answer = ask(ingress)
    assert answer.status_code == 503 and answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == "unavailable" and int(answer.headers["retry-after"]) > 0
    assert ingress.asked == proxy.ATTEMPTS


def test_what_may_have_been_carried_out_is_not_asked_twice():
    ingress = Ingress(deaths=1)
    answer = ask(ingress, path="/v1/batches")
    assert answer.status_code == 503 and "look before you ask again" in answer.json()["detail"]
    assert ingress.asked == 1


def test_a_body_too_long_to_keep_goes_once(monkeypatch):
    monkeypatch.setattr(proxy, "KEPT", 2)
    assert ask(Ingress(deaths=0)).content.endswith(b" abc")
    dying = Ingress(deaths=1, reads=3)
    assert ask(dying).status_code == 503 and dying.asked == 1


def test_nobody_is_asked_again_for_a_caller_who_has_gone():
    asked = 0

    async def ingress(scope, receive, send):
        nonlocal asked
        asked += 1
        assert (await receive())["type"] == "http.disconnect"

    async def gone():
        return {"type": "http.disconnect"}

    async def nowhere(message):
        raise AssertionError(message)

    asyncio.run(AskAgain(ingress)({"type": "http", "method": "GET", "path": "/"}, gone, nowhere))
    assert asked == 1


def test_an_answer_that_has_begun_is_not_begun_again():
    asked = 0

    async def ingress(scope, receive, send):
        nonlocal asked
        asked += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent = []

    async def none():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message["type"])

    asyncio.run(AskAgain(ingress)({"type": "http", "method": "GET", "path": "/"}, none, send))
    assert asked == 1 and sent == ["http.response.start"]


def test_ray_finds_it_by_the_name_in_the_environment():
    module, name = proxy.ASKS_AGAIN["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].split(":")
    assert module == proxy.__name__ and name == middlewares.__name__
    assert [middleware.cls for middleware in middlewares()] == [AskAgain]
