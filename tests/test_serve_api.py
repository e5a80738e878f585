"""The HTTP API over a real port, without Ray. The bundle has random weights: wiring only."""

import base64
import io
import json
import random
import re
import socket
import time
import zipfile
from typing import get_args

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from serve_tools import NOTE, PHOTO, random_bundle, running
from skimage.data import astronaut

from capricious.client import Client, ServiceProblem
from capricious.faces.attributes import Attributes
from capricious.faces.image import decode, encode
from capricious.model.bundle import load_bundle
from capricious.model.learnt import Learnt
from capricious.render.provenance import EXTRAPOLATED, read_stamp
from capricious.render.sheet import contact_sheet
from serve import sweeps
from serve.arguments import PortraitArguments
from serve.gates import ENVELOPE
from serve.schemas import Emotion

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("serve") / "random")


@pytest.fixture(scope="module")
def url(bundle_folder):
    arguments = PortraitArguments(
        bundle=str(bundle_folder), max_upload_mb=1, max_megapixels=4, max_variants=40, upload_timeout_s=3
    )
    with running(arguments) as url:
        yield url


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, timeout=120) as http:
        yield http


@pytest.fixture(scope="module")
def service(url):
    with Client(url) as service:
        yield service


def upload(http: httpx.Client, content: bytes = PHOTO, name: str = "sitter.jpg", path: str = "/v1/sweeps", **fields):
    return http.post(path, files={"file": (name, content)}, data=fields)


def problem(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "stage", "reason"} <= body.keys()
    assert body["status"] == response.status_code
    assert "Traceback" not in response.text and ".py" not in response.text
    return response.status_code, body["stage"], body["reason"]


def test_annotations_describe_the_face(service):
    body = service.annotate(PHOTO)
    assert (body["width"], body["height"]) == (512, 512)
    (face,) = body["faces"]
    assert np.array(face["quad"]).shape == (4, 2) and np.array(face["landmarks"]).shape == (68, 2)
    assert 15 < face["attributes"]["age"] < 60  # the astronaut is a woman in her thirties
    labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(face["label_map"]))))
    assert labels.shape == (64, 64) and labels.max() < len(body["classes"])


def test_a_portrait_becomes_a_stamped_sheet(service, bundle_folder):
    sheet = service.sweep(PHOTO, ages="20:80:30")
    with Image.open(io.BytesIO(sheet)) as image:
        assert image.format == "PNG" and image.width > image.height
    record = read_stamp(sheet)
    assert record["bundle_sha256"] == load_bundle(bundle_folder).sha256
    assert list(record["variants"]) == ["source", "age-20", "age-50", "age-80"]
    assert service.sweep(PHOTO, ages="20:80:30") == sheet
    paintings = service.sweep(PHOTO, ages="20:80:30", composite="painting")
    assert paintings != sheet and list(read_stamp(paintings)["variants"]) == list(record["variants"])


def test_variants_are_streamed_as_they_are_done(http, service):
    variants = list(service.stream(PHOTO, ages="30,20", glasses="none,sun", composite="face", picture_format="png"))
    names = ["age-30_glasses-none", "age-20_glasses-none", "age-30_glasses-sun", "age-20_glasses-sun"]
    assert [variant.name for variant in variants] == names
    assert variants[2].changes == {"age": 30.0, "glasses": "sun"}
    for variant in variants:
        (crop,) = variant.images
        assert decode(crop, name="crop").shape == (64, 64, 3)
        assert list(read_stamp(crop)["variants"]) == [variant.name]
    first, *_, last = [json.loads(line) for line in upload(http, format="ndjson", ages="30").text.splitlines()]
    assert first["kind"] == "sweep" and first["faces"][0]["attribute_source"]["age"] == "estimated"
    assert last == {"kind": "done", "variants": 1}


def test_a_smile_and_an_emotion_are_variants_too(http, service):
    variants = list(service.stream(PHOTO, ages="own", smiles="0,1", emotions="sad", composite="face"))
    assert [variant.name for variant in variants] == ["smile-0_emotion-sad", "smile-1_emotion-sad"]
    render = service.render(PHOTO, smile=0.5, emotion="happy", composite="face")
    assert list(read_stamp(render)["variants"]) == ["smile-0.5_emotion-happy"]
    assert service.bundle()["emotions"] == list(get_args(Emotion))
    assert problem(upload(http, emotions="bored"))[2] == "bad-sweep"


def test_a_preview_is_as_large_as_asked_for(service):
    (variant,) = service.stream(PHOTO, ages="30", preview=200)
    assert decode(variant.images[0], name="painting").shape == (200, 200, 3)


def test_gif_and_zip_and_multipart(http, service):
    for composite, width in (("painting", 512), ("face", 64)):
        with Image.open(io.BytesIO(service.sweep(PHOTO, "gif", ages="20,50,80", composite=composite))) as image:
            assert image.n_frames == 4 and image.width == width  # 20, 50, 80 and back over 50
    with zipfile.ZipFile(io.BytesIO(service.sweep(PHOTO, "zip", ages="20,80", picture_format="png"))) as members:
        assert members.namelist() == ["age-20.png", "age-80.png"]
        painting = members.read("age-80.png")
    pixels = decode(painting, name="age-80.png")
    changed = (pixels != decode(PHOTO, name="photo")).any(2)
    assert changed.any() and not changed[400:].any()  # the face, not the space suit
    response = upload(http, format="multipart", ages="20,80", picture_format="png")
    boundary = re.fullmatch("multipart/mixed; boundary=(.+)", response.headers["content-type"])[1]
    *parts, end = response.content.split(f"--{boundary}".encode())[1:]
    assert end == b"--\r\n" and len(parts) == 2
    assert b'filename="age-80.png"' in parts[1] and painting in parts[1]


def test_a_known_age_wins_over_the_estimate(http):
    first = json.loads(upload(http, format="ndjson", ages="30", sitter_age="41").text.splitlines()[0])
    assert first["faces"][0]["attributes"]["age"] == 41.0
    assert first["faces"][0]["attribute_source"]["age"] == "label"


def test_a_render_is_named_by_its_etag(http):
    first = upload(http, path="/v1/renders", age="70")
    assert first.status_code == 200 and list(read_stamp(first.content)["variants"]) == ["age-70"]
    etag = first.headers["etag"]
    assert re.fullmatch('"[0-9a-f]{32}"', etag)  # strong: no W/

    def again(tags: str, **fields):
        files = {"file": ("renamed.jpg", PHOTO)}
        return http.post("/v1/renders", files=files, data=fields, headers={"If-None-Match": tags})

    unchanged = again(f'"another", W/{etag}', age="70")
    assert unchanged.status_code == 304 and not unchanged.content and unchanged.headers["etag"] == etag
    other = again(etag, age="71")
    assert other.status_code == 200 and other.headers["etag"] != etag
    assert again('"another"', age="70").content == first.content


def test_a_render_of_one_face_and_of_nothing_changed(http, service):
    assert decode(service.render(PHOTO, age=70, composite="face"), name="face").shape == (64, 64, 3)
    assert np.array_equal(decode(service.render(PHOTO), name="painting"), decode(PHOTO, name="photo"))
    refused = upload(http, path="/v1/renders", composite="face", face="1")
    assert problem(refused) == (422, "request", "no-such-face") and refused.json()["allowed"] == 0


def test_the_client_raises_problems(service, url):
    with pytest.raises(ServiceProblem, match="ages must read like") as caught:
        service.sweep(PHOTO, ages="young")
    assert (caught.value.status, caught.value.reason) == (422, "bad-sweep")
    with pytest.raises(ServiceProblem) as caught:
        list(service.stream(b"Dear museum"))
    assert caught.value.stage == "decode"
    with Client("http://127.0.0.1:9", patience=0) as nobody, pytest.raises(ServiceProblem) as caught:
        nobody.bundle()
    assert (caught.value.status, caught.value.reason) == (0, "no-answer")


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"Dear museum,\nplease find attached", "letter.txt", (422, "decode", "not-an-image")),
        (b"%PDF-1.7\n", "scan.pdf", (415, "decode", "unsupported-format")),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "x.svg",
            (415, "decode", "unsupported-format"),
        ),
        (PHOTO[:2000], "half.jpg", (422, "decode", "truncated")),
        (b"", "empty.jpg", (422, "decode", "empty")),
        (encode(np.zeros((2100, 2100, 3), np.uint8), "png"), "huge.png", (422, "decode", "too-many-pixels")),
        (encode(np.full((300, 400, 3), 128, np.uint8), "jpeg"), "fog.jpg", (422, "detect", "no-face")),
    ],
)
def test_what_is_no_portrait_is_explained(http, content, name, expected):
    response = upload(http, content, name)
    assert problem(response) == expected
    if expected[1] == "decode":
        assert name in response.json()["detail"]


def test_a_decompression_bomb_is_refused_by_its_header(http):
    """A PNG of 30,000 × 30,000 equal pixels: 3 KB here, 2.7 GB decoded."""
    out = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(out, "png", optimize=True)
    assert len(out.getvalue()) < MEGABYTE
    assert problem(upload(http, out.getvalue(), "bomb.png"))[2] == "too-many-pixels"


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>.jpg", "../../etc/passwd", "a\r\nSet-Cookie: x.txt", "é" * 300]
)
def test_a_hostile_name_is_only_text(http, name):
    response = upload(http, b"no picture", name)
    assert problem(response)[0] == 422
    assert response.headers["x-content-type-options"] == "nosniff" and "set-cookie" not in response.headers
    assert "/etc/" not in response.json()["detail"] and len(response.json()["detail"]) < 400


def test_hostile_metadata_neither_harms_nor_survives(service):
    image = Image.fromarray(astronaut()[:320, 60:380])
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>" * 50
    exif[0x0112] = 99  # no such orientation
    info = PngImagePlugin.PngInfo()
    info.add_text("XML:com.adobe.xmp", "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>")
    out = io.BytesIO()
    image.save(out, "png", exif=exif, pnginfo=info)
    render = service.render(out.getvalue(), age=70)
    assert read_stamp(render)["variants"] == {"age-70": {"age": 70.0}}
    assert b"ENTITY" not in render


@pytest.mark.parametrize(
    ("fields", "reason", "says"),
    [
        ({"ages": "young"}, "bad-sweep", "'young'"),
        ({"ages": "0:120:1"}, "too-many-variants", "40"),
        ({"ages": "1:60:1"}, "too-many-variants", "40"),
        ({"ages": "200"}, "bad-sweep", "0…120"),
        ({"ages": "0.." + "9" * 390}, "bad-sweep", "of ordinary size"),
        ({"genders": "duck"}, "bad-sweep", "female, male"),
        ({"sitter_age": "-3"}, "bad-parameter", "sitter_age"),
        ({"format": "exe"}, "bad-parameter", "'ndjson'"),
        ({"agess": "30"}, "bad-parameter", "agess"),
    ],
)
def test_a_request_that_cannot_be_is_explained(http, fields, reason, says):
    response = upload(http, **fields)
    assert problem(response) == (422, "request", reason)
    assert says in response.json()["detail"]


def test_a_body_that_is_no_upload_is_refused(http):
    assert problem(http.post("/v1/sweeps", json={"url": "http://169.254.169.254/"}))[0] == 415
    assert problem(http.post("/v1/sweeps", data={"ages": "30"}, files={"portrait": PHOTO}))[0] == 422
    assert problem(http.post("/v1/sweeps", data={"ages": "30", "file": "text"}, files={"x": b""}))[0] == 422
    assert problem(
        http.post("/v1/sweeps", content=b"--b", headers={"Content-Type": "multipart/form-data; boundary=b"})
    )[0] in (400, 422)
    assert problem(http.get("/v1/sweeps"))[0] == 405
    assert problem(http.get("/v1/nothing"))[0] == 404


def test_an_upload_that_is_too_large_is_refused_by_its_declared_size(http):
    response = upload(http, bytes(MEGABYTE + ENVELOPE), "large.jpg")
    assert problem(response) == (413, "request", "too-large")
    assert response.json()["allowed"] == "1 MB"


def chunked(url: str, chunks, wait: float = 0.0) -> bytes:
    """Posts a body of unknown length that never ends; returns what is answered by then."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/sweeps HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        for chunk in (head, *chunks):
            connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            time.sleep(wait)
        return connection.recv(65536)


def test_an_upload_without_a_declared_size_is_refused_while_it_arrives(url):
    assert chunked(url, [bytes(64 * 1024)] * 24).startswith(b"HTTP/1.1 413")


def test_a_slow_upload_is_given_up(url):
    assert chunked(url, [b"x"], wait=0.1).startswith(b"HTTP/1.1 408")


def fuzzed(count: int):
    """Uploads that were cut, flipped, or put together wrongly; always the same ones."""
    draw = random.Random(0)
    small = {f: encode(astronaut()[40:200:2, 150:310:2], f) for f in ("jpeg", "png", "webp", "tiff")}
    for _ in range(count):
        data = bytearray(small[draw.choice(list(small))])
        match draw.randrange(4):
            case 0:
                data = data[: draw.randrange(len(data))]
            case 1:
                for _ in range(draw.randint(1, 20)):
                    data[draw.randrange(len(data))] = draw.randrange(256)
            case 2:
                at = draw.randrange(min(200, len(data)))
                data[at : at + 4] = draw.randbytes(4)
            case 3:
                data = bytearray(draw.randbytes(draw.randint(0, 400)))
        yield bytes(data), "".join(chr(draw.randrange(32, 1000)) for _ in range(draw.randint(0, 20)))


def check_fuzzed(http: httpx.Client, count: int) -> None:
    for content, name in fuzzed(count):
        response = upload(http, content, name, path="/v1/renders", age="60", composite="face")
        assert response.status_code in (200, 413, 415, 422), (response.status_code, response.text, content[:40])


def test_fuzzed_uploads_are_never_a_fault_of_the_service(http):
    check_fuzzed(http, 200)


@pytest.mark.slow
def test_thousands_of_fuzzed_uploads_are_never_a_fault_of_the_service(http):
    check_fuzzed(http, 2000)


def test_pages_health_and_bundle(http, bundle_folder):
    for path in ("/", "/docs"):
        page = http.get(path)
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "//" not in page.text.replace("http://www.w3.org", "").split("<script>")[0]  # no external asset
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    facts = http.get("/v1/bundle").json()
    assert facts["sha256"] == load_bundle(bundle_folder).sha256
    assert facts["bundle"]["note"] == NOTE and facts["bundle"]["resolution"] == 64
    assert facts["limits"]["max_upload_mb"] == 1 and facts["batches"] is False


def test_the_openapi_document_describes_every_answer(http):
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) >= {"/v1/annotations", "/v1/sweeps", "/v1/renders", "/v1/batches", "/v1/bundle"}
    assert "ProblemBody" in document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            if path.startswith("/v1"):
                assert {"401", "422", "429", "504"} <= operation["responses"].keys()
    assert "HTTPValidationError" not in json.dumps(document)


def test_nobody_else_s_page_may_ask(http):
    answer = http.options(
        "/v1/sweeps", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.slow
def test_the_service_does_what_its_openapi_document_says(url):
    """Schemathesis makes requests from the document, right and wrong ones, and compares the answers with it."""
    schemathesis = pytest.importorskip("schemathesis")
    import subprocess
    import sys
    from pathlib import Path

    assert schemathesis
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--max-examples=30"]
    command += [
        "--checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    ]
    done = subprocess.run([*command, "--seed=1"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]


def test_what_the_bundle_never_saw_is_refused_and_what_it_guesses_is_marked(tmp_path, monkeypatch):
    seen = [Attributes(age=float(age), gender=float(age % 2)) for age in range(20, 61)]
    learnt = Learnt.of(np.stack([attributes.vector() for attributes in seen]))
    bundle = random_bundle(tmp_path / "bundle", learnt=learnt)
    with running(PortraitArguments(bundle=str(bundle))) as url, httpx.Client(base_url=url, timeout=120) as http:
        refused = upload(http, smiles="1")
        assert (refused.status_code, refused.json()["reason"]) == (422, "bad-sweep")
        assert "smile cannot be changed" in refused.json()["detail"]
        assert read_stamp(upload(http, ages="30,80").content)["extrapolated"] == ["age-80"]
        drawn = []
        monkeypatch.setattr(sweeps, "contact_sheet", lambda *a, **words: drawn.append((a, words)) or contact_sheet(*a))
        assert upload(http, ages="30,80", composite="painting").status_code == 200
        (((_, _, columns), words),) = drawn
        assert columns == ["original", "30", "80*"] and EXTRAPOLATED in words["caption"]
