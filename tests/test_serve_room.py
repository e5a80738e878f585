"""What bounds a service besides the number of requests: memory for decoded pictures, and time. The model is played."""

import asyncio

import httpx
import numpy as np
import pytest
from pydantic import ValidationError
from serve_tools import PHOTO, face, random_bundle

from capricious.model.bundle import load_bundle
from serve import sweeps
from serve.arguments import PortraitArguments
from serve.gates import Admission
from serve.ingress import application
from serve.pipeline import Annotated, Facts
from serve.problems import overloaded


class Model:
    """Finds one face in a picture of half a megapixel, and renders it grey once it may."""

    def __init__(self, bundle):
        self.found = Annotated(1000, 500, (face(0),))
        self.bundle = bundle
        self.may = asyncio.Event()
        self.asked = 0
        self.busy = False

    async def facts(self):
        return Facts(self.bundle.info, self.bundle.sha256, 4)

    async def annotate(self, data, name):
        return self.found

    async def render(self, face, variants, patient):
        self.asked += 1
        if self.busy:
            raise overloaded(7)
        await self.may.wait()
        return np.full((len(variants), 64, 64, 3), 128, np.uint8)


class Nobody:
    """A model that does not answer."""

    async def wait(self, *_):
        await asyncio.sleep(60)

    facts = annotate = render = wait


@pytest.fixture
def model(tmp_path):
    return Model(load_bundle(random_bundle(tmp_path / "bundle")))


@pytest.fixture
def decoded(monkeypatch):
    """The names of uploads that were decoded."""
    names, read_scan = [], sweeps.read_scan

    def noted(data, *, name):
        names.append(name)
        return read_scan(data, name=name)

    monkeypatch.setattr(sweeps, "read_scan", noted)
    return names


def client(pipeline, **arguments) -> httpx.AsyncClient:
    app = application(PortraitArguments(**arguments), pipeline, {}, Admission(64))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def post(http: httpx.AsyncClient, name: str, path: str = "/v1/renders", **fields):
    return http.post(path, files={"file": (name, PHOTO)}, data=fields)


def test_pictures_beyond_the_room_are_refused_before_they_are_decoded(model, decoded):
    async def main():
        async with client(model, max_megapixels=1, max_megapixels_at_once=1, retry_after_s=7) as http:
            held = [
                asyncio.create_task(post(http, "a", age="70")),
                asyncio.create_task(post(http, "b", "/v1/sweeps", ages="70", format="ndjson")),
            ]
            while model.asked < 2:
                await asyncio.sleep(0.01)
            refused = await post(http, "c", age="70")
            assert (refused.status_code, refused.json()["reason"]) == (429, "overloaded")
            assert refused.headers["retry-after"] == "7"
            assert not decoded  # those that are held wait for the model first
            face_alone = asyncio.create_task(post(http, "d", age="70", composite="face"))  # needs no room
            while model.asked < 3:
                await asyncio.sleep(0.01)
            model.may.set()
            assert [(await answer).status_code for answer in (*held, face_alone)] == [200] * 3
            assert (await post(http, "e", age="70")).status_code == 200  # there is room again
            assert sorted(decoded) == ["a", "b", "e"]

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/renders", "/v1/sweeps"])
def test_who_is_refused_by_a_busy_model_has_cost_no_decoding_and_leaves_room(model, decoded, path):
    async def main():
        async with client(model, max_megapixels=1, max_megapixels_at_once=1) as http:
            model.busy = True
            assert [(await post(http, "a", path)).status_code for _ in range(3)] == [429] * 3
            assert not decoded
            model.busy = False
            model.may.set()
            assert (await post(http, "b", path)).status_code == 200

    asyncio.run(main())


def test_one_picture_always_has_room():
    with pytest.raises(ValidationError, match="must not be less than max_megapixels"):
        PortraitArguments(max_megapixels=100, max_megapixels_at_once=99)


@pytest.mark.parametrize("path", ["/v1/bundle", "/v1/renders", "/v1/sweeps", "/v1/annotations"])
def test_every_route_has_a_deadline(path):
    async def main():
        async with client(Nobody(), timeout_s=0.2) as http:
            answer = await asyncio.wait_for(http.get(path) if path == "/v1/bundle" else post(http, "a", path), 20)
            assert (answer.status_code, answer.json()["reason"]) == (504, "timeout")

    asyncio.run(main())
