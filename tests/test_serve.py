"""The service over real HTTP on a real Ray Serve. The bundle has random weights: wiring only."""

import base64
import io
import json
import socket
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from ray import serve
from skimage.data import astronaut

from capricious.faces.image import decode, encode
from capricious.model.bundle import load_bundle, save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig
from capricious.render.provenance import read_stamp
from serve.app import ENVELOPE, PortraitArguments, portrait

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=64, width=4, hidden=8))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("serve") / "random"
    save_bundle(
        folder, generator, StyleEncoder(EncoderConfig(resolution=64, width=4)), {"note": "random weights: wiring only"}
    )
    return folder


@pytest.fixture(scope="module")
def client(ray_cluster, bundle_folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    arguments = PortraitArguments(bundle=str(bundle_folder), threads=1, max_upload_mb=1, max_megapixels=4)
    serve.run(portrait(arguments), name="portrait", route_prefix="/")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        yield client
    serve.delete("portrait")
    serve.shutdown()


PHOTO = encode(astronaut(), "jpeg")


def upload(client: httpx.Client, content: bytes = PHOTO, name: str = "sitter.jpg", **fields) -> httpx.Response:
    return client.post("/v1/sweep", files={"file": (name, content)}, data=fields)


def problem(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    assert body.keys() == {"stage", "reason", "detail"}
    assert "Traceback" not in response.text and ".py" not in response.text
    return response.status_code, body["stage"], body["reason"]


def test_a_portrait_becomes_a_stamped_sheet(client, bundle_folder):
    response = client.post("/v1/sweep?ages=20:80:30", files={"file": ("sitter.jpg", PHOTO)})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    sheet = Image.open(io.BytesIO(response.content))
    assert sheet.format == "PNG" and sheet.width > sheet.height
    record = read_stamp(response.content)
    assert record["bundle_sha256"] == load_bundle(bundle_folder).sha256
    assert list(record["variants"]) == ["source", "age-20", "age-50", "age-80"]
    assert 15 < record["sitters"][0]["age"] < 60  # the astronaut is a woman in her thirties
    assert upload(client, ages="20:80:30").content == response.content  # form or query, and again: the same bytes


def test_json_has_every_face_in_every_variant(client):
    body = upload(client, format="json", ages="30", glasses="none,sun", preview="200").json()
    names = ["source", "age-30_glasses-none", "age-30_glasses-sun"]
    assert [variant["name"] for variant in body["variants"]] == names
    assert body["variants"][2]["changes"] == {"age": 30.0, "glasses": "sun"}
    assert (body["width"], body["height"]) == (512, 512)
    (face,) = body["faces"]
    assert np.array(face["quad"]).shape == (4, 2)
    for name in names:
        crop = base64.b64decode(face["images"][name])
        assert decode(crop, name=name).shape == (64, 64, 3)
        assert list(read_stamp(crop)["variants"]) == [name]
        assert decode(base64.b64decode(body["previews"][name]), name=name).shape == (200, 200, 3)


def test_a_known_age_wins_over_the_estimate(client):
    (face,) = upload(client, format="json", ages="30", age="41").json()["faces"]
    assert face["attributes"]["age"] == 41.0 and face["attribute_source"]["age"] == "label"


def test_gif_and_zip(client):
    animation = upload(client, ages="20,50,80", format="gif")
    assert animation.headers["content-type"] == "image/gif"
    with Image.open(io.BytesIO(animation.content)) as image:
        assert image.n_frames == 4  # 20, 50, 80 and back over 50
    archive = upload(client, ages="20,80", format="zip")
    assert archive.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.content)) as members:
        assert members.namelist() == ["age-20.png", "age-80.png"]
        painting = members.read("age-80.png")
    pixels = decode(painting, name="age-80.png")
    changed = (pixels != decode(PHOTO, name="photo")).any(2)
    assert changed.any() and not changed[400:].any()  # the face, not the space suit
    assert list(read_stamp(painting)["variants"]) == ["age-80"]


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"Dear museum,\nplease find attached", "letter.txt", (422, "decode", "not-an-image")),
        (b"%PDF-1.7\n", "scan.pdf", (415, "decode", "unsupported-format")),
        (PHOTO[:2000], "half.jpg", (422, "decode", "truncated")),
        (b"", "empty.jpg", (422, "decode", "empty")),
        (encode(np.zeros((2100, 2100, 3), np.uint8), "png"), "huge.png", (422, "decode", "too-many-pixels")),
    ],
)
def test_what_is_no_portrait_is_explained(client, content, name, expected):
    response = upload(client, content, name)
    assert problem(response) == expected
    assert name in response.json()["detail"]


def test_a_landscape_has_no_sitter(client):
    rows = np.linspace(0, 1, 300)[:, None, None]
    sky, grass = np.array([150, 190, 235]), np.array([60, 120, 50])
    landscape = np.broadcast_to(np.where(rows < 0.6, sky, grass * (1.2 - 0.4 * rows)), (300, 400, 3)).astype(np.uint8)
    status, stage, _ = problem(upload(client, encode(landscape, "jpeg"), "landscape.jpg"))
    assert (status, stage) == (422, "detect")


@pytest.mark.parametrize(
    ("fields", "reason", "says"),
    [
        ({"ages": "young"}, "bad-sweep", "'young'"),
        ({"ages": "0:120:0.5"}, "bad-sweep", "128"),
        ({"ages": "200"}, "bad-sweep", "0…120"),
        ({"gender": "duck"}, "bad-sweep", "female, male"),
        ({"age": "-3"}, "bad-parameter", "age"),
        ({"format": "exe"}, "bad-parameter", "'sheet', 'gif', 'json' or 'zip'"),
        ({"agess": "30"}, "bad-parameter", "agess"),
    ],
)
def test_a_request_that_cannot_be_is_explained(client, fields, reason, says):
    for response in (
        upload(client, **fields),
        client.post("/v1/sweep", params=fields, files={"file": ("sitter.jpg", PHOTO)}),
    ):
        assert problem(response) == (422, "request", reason)
        assert says in response.json()["detail"]


def test_a_body_that_is_no_upload_is_refused(client):
    assert problem(client.post("/v1/sweep", json={"url": "http://169.254.169.254/"}))[0] == 415
    assert problem(client.post("/v1/sweep", data={"ages": "30"}, files={"portrait": PHOTO}))[0] == 422
    assert problem(client.post("/v1/sweep", data={"ages": "30", "file": "text"}, files={"x": b""}))[0] == 422
    assert problem(client.get("/v1/sweep"))[0] == 405
    assert problem(client.get("/v1/nothing"))[0] == 404


def test_an_upload_that_is_too_large_is_refused_by_its_declared_size(client):
    response = upload(client, bytes(MEGABYTE + ENVELOPE), "large.jpg")
    assert problem(response) == (413, "request", "too-large")
    assert "1 MB" in response.json()["detail"]


def test_an_upload_without_a_declared_size_is_refused_while_it_arrives(client):
    """A raw socket sends 3 MB in chunks of a body that would be endless, and waits: the answer must come by then."""
    url = client.base_url
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/sweep HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        for chunk in (head, *[bytes(64 * 1024)] * 48):
            connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413"), answer[:200]


def test_page_health_and_bundle(client, bundle_folder):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "//" not in page.text.replace("http://www.w3.org", "").split("<script>")[0]  # no external asset
    assert client.get("/healthz").json() == {"status": "ok"}
    facts = client.get("/v1/bundle").json()
    assert facts["sha256"] == load_bundle(bundle_folder).sha256
    assert facts["note"] == "random weights: wiring only" and facts["resolution"] == 64
    assert "/v1/sweep" in json.dumps(client.get("/openapi.json").json())
    assert client.get("/docs").status_code == 404  # it would load scripts from elsewhere
