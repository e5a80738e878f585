"""IIIF manifests and collections, from a real HTTP server on this machine."""

import json
import socket
import threading
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capricious.data.collections import image_api, read_collection, web
from capricious.errors import CapriciousError, ConfigError, Rejection


class Museum(BaseHTTPRequestHandler):
    """Answers with what is in `server.answers`: path → list of (status, headers, body); the last one stays."""

    def do_GET(self):
        self.server.asked[self.path] += 1
        answers = self.server.answers.get(self.path, [(404, {}, b"")])
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def museum(monkeypatch):
    """A server, allowed by name, with no waiting between attempts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Museum)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.answers, server.asked, server.waits = {}, Counter(), []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("CAPRICIOUS_ALLOWED_HOSTS", "127.0.0.1")
    monkeypatch.setattr(web.time, "sleep", server.waits.append)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def show(museum, path, document, status=200, **headers):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    museum.answers.setdefault(path, []).append((status, headers, body))
    return museum.url + path


def reason(source):
    with pytest.raises(Rejection) as caught:
        source.read()
    return caught.value.reason


def paths(museum, sources):
    return [source.uri.removeprefix(museum.url) for source in sources]


def canvas3(url, image, **more):
    body = {"type": "Image", **image}
    annotation = {"type": "Annotation", "motivation": "painting", "body": body}
    return {
        "id": url + "/canvas",
        "type": "Canvas",
        "items": [{"type": "AnnotationPage", "items": [annotation]}],
        **more,
    }


def manifest3(url, *canvases, **more):
    return {"@context": "http://iiif.io/api/presentation/3/context.json", "id": url, "type": "Manifest",
            "items": list(canvases), **more}  # fmt: skip


def manifest2(url, *resources, **more):
    canvases = [{"@id": f"{url}/c{n}", "images": [{"resource": r}]} for n, r in enumerate(resources)]
    return {"@id": url, "@type": "sc:Manifest", "sequences": [{"canvases": canvases}], **more}


def test_a_manifest_of_version_3(museum):
    service = {"id": museum.url + "/iiif/mona", "type": "ImageService3", "profile": "level2"}
    image = {"id": museum.url + "/mona.jpg", "width": 7479, "height": 11146, "service": [service]}
    show(museum, "/iiif/mona/full/!2048,2048/0/default.jpg", b"mona")
    url = show(
        museum,
        "/m",
        manifest3(
            museum.url + "/m",
            canvas3(museum.url + "/1", image),
            canvas3(museum.url + "/2", {"id": museum.url + "/plain.jpg"}, rights="http://example.org/own"),
            canvas3(museum.url + "/3", {"id": museum.url + "/sound.mp3", "type": "Sound"}),
            rights="http://creativecommons.org/publicdomain/zero/1.0/",
            requiredStatement={
                "label": {"en": ["Credit"]},
                "value": {"fr": ["Louvre"], "en": ["<p>The&nbsp;Louvre,\n<b>Paris</b></p>"]},
            },
        ),
    )
    mona, plain, sound = read_collection(url)
    assert mona.read() == b"mona"
    assert mona.license == "http://creativecommons.org/publicdomain/zero/1.0/; The Louvre, Paris"
    assert plain.uri == museum.url + "/plain.jpg" and plain.license == "http://example.org/own"
    with pytest.raises(FileNotFoundError):
        plain.read()
    assert reason(sound) == "no-image"


def test_a_manifest_of_version_2(museum):
    service = {
        "@context": "http://iiif.io/api/image/2/context.json",
        "@id": museum.url + "/iiif/1",
        "profile": ["http://iiif.io/api/image/2/level1.json", {"formats": ["jpg"]}],
    }
    image = {"@id": museum.url + "/1.jpg", "@type": "dctypes:Image", "width": 4000, "height": 8000, "service": service}
    choice = {"@type": "oa:Choice", "default": {"@id": museum.url + "/natural.jpg", "@type": "dctypes:Image"},
              "item": [{"@id": museum.url + "/x-ray.jpg", "@type": "dctypes:Image"}]}  # fmt: skip
    statement = {"@value": "Courtesy of <i>us</i>", "@language": "en"}
    url = show(museum, "/m", manifest2(museum.url + "/m", image, choice, license="http://cc/by", attribution=statement))
    sources = list(read_collection(url))
    assert paths(museum, sources) == ["/iiif/1/full/1024,/0/default.jpg", "/natural.jpg"]
    assert {source.license for source in sources} == {"http://cc/by; Courtesy of us"}


def picture_manifest(museum, name):
    document = manifest3(f"{museum.url}/{name}", canvas3(museum.url, {"id": f"{museum.url}/{name}.jpg"}))
    return show(museum, f"/{name}", document)


def test_nested_collections_of_version_3_with_a_circle_and_a_manifest_that_is_gone(museum):
    a, b = picture_manifest(museum, "a"), picture_manifest(museum, "b")
    top = museum.url + "/top"
    inner = show(museum, "/inner", {"id": museum.url + "/inner", "type": "Collection",
                 "items": [{"id": b, "type": "Manifest"}, {"id": top, "type": "Collection"}]})  # fmt: skip
    references = [a, inner, museum.url + "/gone", a, show(museum, "/broken", b"<html>"), museum.url + "/odd"]
    show(museum, "/odd", {"type": "Manifest", "items": [3]})
    show(museum, "/top", {"id": top, "type": "Collection", "items": [{"id": i, "type": "?"} for i in references]})
    sources = list(read_collection(top))
    assert paths(museum, sources) == ["/a.jpg", "/b.jpg", "/gone", "/broken", "/odd"]
    assert [reason(source) for source in sources[2:]] == ["not-found", "bad-manifest", "bad-manifest"]
    assert museum.asked["/a"] == museum.asked["/top"] == 1


def test_paged_and_nested_collections_of_version_2(museum):
    a, b, c, d = (picture_manifest(museum, name) for name in "abcd")
    show(museum, "/sub", {"@id": museum.url + "/sub", "@type": "sc:Collection", "members": [{"@id": b}]})
    show(museum, "/page1", {"@id": museum.url + "/page1", "@type": "sc:Collection", "manifests": [{"@id": a}],
         "collections": [{"@id": museum.url + "/sub"}], "next": museum.url + "/page2"})  # fmt: skip
    show(museum, "/page2", {"@id": museum.url + "/page2", "@type": "sc:Collection", "manifests": [c, {"@id": d}],
         "next": museum.url + "/page1"})  # fmt: skip
    top = show(museum, "/top", {"@type": "sc:Collection", "first": museum.url + "/page1", "total": 4})
    assert set(paths(museum, read_collection(top))) == {"/a.jpg", "/b.jpg", "/c.jpg", "/d.jpg"}
    assert list(read_collection(top)) == list(read_collection(top))


def test_manifests_embedded_in_a_collection_are_not_asked_for(museum):
    embedded = manifest3(museum.url + "/m", canvas3(museum.url, {"id": museum.url + "/a.jpg"}))
    top = show(museum, "/top", {"type": "Collection", "items": [embedded]})
    assert paths(museum, read_collection(top)) == ["/a.jpg"]
    assert museum.asked["/m"] == 0


def test_a_manifest_file_shows_pictures_of_allowed_hosts_only(museum, tmp_path):
    document = manifest3(
        "urn:m",
        canvas3("urn:1", {"id": museum.url + "/a.jpg"}),
        canvas3("urn:2", {"id": "https://elsewhere.org/b.jpg"}),
        canvas3("urn:3", {"id": "file:///etc/passwd"}),
    )
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    show(museum, "/a.jpg", b"a")
    a, elsewhere, file = read_collection(str(tmp_path / "manifest.json"), "iiif")
    assert a.read() == b"a"
    assert (reason(elsewhere), reason(file)) == ("host-not-allowed", "bad-address")


JSON = (
    st.none()
    | st.integers(-1, 3)
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.none())
    | st.builds(dict, id=st.just("x"))
)


def nodes(value, path=()):
    """Yields the paths of all nodes of a JSON document."""
    yield path
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nodes(below, (*path, key))


@settings(deadline=None)
@given(st.data())
def test_a_document_of_any_shape_is_listed_or_refused(tmp_path_factory, data):
    image = {"id": "https://m.org/1.jpg", "width": 9000, "height": 3000, "service": [service(maxArea=100)]}
    old = {"@id": "x:/2.jpg", "@type": "dctypes:Image", "service": service(2)}
    inner = [
        manifest3("m", canvas3("c", image), rights="r", requiredStatement={"value": {"en": ["x"]}}),
        manifest2("n", old),
    ]
    document = {"type": "Collection", "items": [*inner, {"id": "s3://bucket/secret", "type": "Manifest"}], "next": "p"}
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(nodes(document))[1:]))
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = data.draw(JSON)
    file = tmp_path_factory.mktemp("iiif") / "m.json"
    file.write_text(json.dumps(document))
    try:
        sources = list(read_collection(str(file), "iiif"))
    except CapriciousError:
        return
    assert all(source.refused for source in sources)  # no host is allowed


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"type": "Canvas"}', b"[" * 100_000])
def test_what_is_no_manifest_is_an_error_at_once(museum, body):
    url = show(museum, "/m", body)
    with pytest.raises(CapriciousError, match="is not JSON|must be a IIIF Collection or Manifest"):
        read_collection(url)


def test_a_manifest_that_is_not_there_is_an_error_at_once(museum):
    with pytest.raises(CapriciousError, match="no IIIF manifest or collection at"):
        read_collection(museum.url + "/gone")


# Sizes


def service(version=3, level=2, **more):
    if version == 3:
        return {"id": "https://m.org/iiif/1", "type": "ImageService3", "profile": f"level{level}", **more}
    context = f"http://iiif.io/api/image/{version}/context.json"
    profile = f"http://iiif.io/api/image/{version}/level{level}.json"
    return {"@context": context, "@id": "https://m.org/iiif/1", "profile": profile, **more}


@pytest.mark.parametrize(
    "service, size, expected",
    [
        (service(), (8000, 4000), "/full/!2048,2048/"),
        (service(), None, "/full/!2048,2048/"),
        (service(), (800, 400), "/full/max/"),  # never enlarged
        (service(2), (800, 400), "/full/full/"),
        (service(2), (8000, 4000), "/full/!2048,2048/"),
        (service(level=1), (8000, 4000), "/full/2048,/"),  # level 1 need not know !w,h
        (service(level=1), (4000, 8000), "/full/1024,/"),
        (service(maxWidth=1000), (8000, 4000), "/full/!1000,1000/"),
        (service(maxWidth=1000, maxHeight=500), (8000, 4000), "/full/!1000,500/"),
        (service(level=1, maxArea=1_000_000), (8000, 8000), "/full/1000,/"),
    ],
)
def test_images_are_asked_for_at_a_bounded_size(service, size, expected):
    image = {"id": "https://m.org/1.jpg", **(dict(zip(("width", "height"), size, strict=True)) if size else {})}
    assert image_api.is_image_service(service)
    assert image_api.image_url(service, image) == f"https://m.org/iiif/1{expected}0/default.jpg"


def test_fixed_files_and_old_services():
    assert image_api.image_url(service(level=0), {"id": "https://m.org/1.jpg"}) == "https://m.org/1.jpg"
    old = {"@context": "http://library.stanford.edu/iiif/image-api/1.1/context.json", "@id": "https://m.org/1",
           "profile": "http://library.stanford.edu/iiif/image-api/1.1/compliance.html#level2"}  # fmt: skip
    assert image_api.image_url(old, {}) == "https://m.org/1/full/!2048,2048/0/native.jpg"
    assert not image_api.is_image_service({"@id": "https://m.org/auth", "profile": "http://iiif.io/api/auth/1/login"})


@given(st.integers(1, 30_000), st.integers(1, 30_000), st.sampled_from([1, 2]), st.sampled_from([None, 300, 5000]))
def test_no_size_is_beyond_the_bound_or_the_picture(width, height, level, limit):
    url = image_api.image_url(service(level=level, maxWidth=limit), {"width": width, "height": height})
    asked = url.removeprefix("https://m.org/iiif/1/full/").split("/")[0]
    bound = min(2048, limit or 2048)
    if asked == "max":
        assert max(width, height) <= bound
    elif level == 1:
        assert 1 <= int(asked.rstrip(",")) <= min(width, bound)
        assert int(asked.rstrip(",")) * height <= bound * width or asked == "1,"
    else:
        assert asked == f"!{bound},{bound}" and max(width, height) > bound


# Hosts


def allowed(listed="", own=""):
    return web.AllowedHosts(tuple(filter(None, listed.split(","))), own)


@pytest.mark.parametrize(
    "url, listed, own, ok",
    [
        ("https://museum.org/a", "", "museum.org", True),
        ("https://MUSEUM.org./a", "", "museum.org", True),
        ("https://iiif.museum.org/a", "", "museum.org", False),
        ("https://iiif.museum.org/a", "*.museum.org", "", True),
        ("https://museum.org/a", "*.museum.org", "", False),
        ("https://evilmuseum.org/a", "*.museum.org", "", False),
        ("https://museum.org.evil.org/a", "museum.org,*.museum.org", "", False),
        ("https://museum.org@evil.org/a", "museum.org", "", False),
        ("https://evil.org@museum.org/a", "museum.org", "", False),  # no user names in addresses at all
        ("ftp://museum.org/a", "museum.org", "", False),
        ("file:///etc/passwd", "museum.org", "", False),
        ("http://10.0.0.1/a", "", "10.0.0.1", False),
        ("http://10.0.0.1/a", "10.0.0.1", "", True),
        ("http://[::ffff:127.0.0.1]/a", "", "::ffff:127.0.0.1", False),
        ("http://169.254.169.254/latest/meta-data", "", "169.254.169.254", False),
        ("http://[::1/a", "museum.org", "", False),
        ("https://8.8.8.8/a", "", "8.8.8.8", True),
    ],
)
def test_which_hosts_may_be_asked(url, listed, own, ok):
    if ok:
        allowed(listed, own).check(url)
    else:
        with pytest.raises(Rejection):
            allowed(listed, own).check(url)


def test_a_name_that_leads_into_a_private_network_is_not_asked(museum, monkeypatch):
    url = show(museum, "/m", {}).replace("127.0.0.1", "localhost")
    for hosts in (allowed(own="localhost"), allowed("*.localhost", "localhost")):
        with pytest.raises(Rejection, match="in a private network"):
            web.fetch(url, hosts, 100)
    assert not museum.asked
    assert web.fetch(url, allowed("localhost"), 100) == b"{}"


def test_own_host_alone_does_not_open_the_private_network(museum, monkeypatch):
    monkeypatch.delenv("CAPRICIOUS_ALLOWED_HOSTS")
    with pytest.raises(CapriciousError, match="CAPRICIOUS_ALLOWED_HOSTS=127.0.0.1"):
        read_collection(museum.url + "/m")
    assert not museum.asked


def test_a_redirect_is_followed_to_allowed_hosts_only(museum):
    show(museum, "/a.jpg", b"a")
    near = show(museum, "/near", b"", status=302, Location="/a.jpg")
    far = show(museum, "/far", b"", status=302, Location="https://elsewhere.org/a.jpg")
    file = show(museum, "/file", b"", status=302, Location="file:///etc/passwd")
    circle = show(museum, "/circle", b"", status=302, Location="/circle")
    assert web.fetch(near, allowed("127.0.0.1"), 100) == b"a"
    with pytest.raises(Rejection, match="elsewhere.org is not among the allowed hosts"):
        web.fetch(far, allowed("127.0.0.1"), 100)
    with pytest.raises(OSError, match="not allowed"):
        web.fetch(file, allowed("127.0.0.1"), 100)
    with pytest.raises(OSError, match="302"):
        web.fetch(circle, allowed("127.0.0.1"), 100)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "::1",
        "fd00::1",
        "::10.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "ff02::1",
        "fe80::1%eth0",
    ],
)
def test_no_way_of_writing_it_makes_a_private_address_public(address):
    assert not web.is_public(address)
    with pytest.raises(Rejection, match="in a private network"):
        allowed("*.museum.org").check_peer("iiif.museum.org", address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2001:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_addresses_of_the_internet_are_public(address):
    assert web.is_public(address)


@pytest.mark.parametrize("entry", ["*", "mus*.org", "*.*", "https://museum.org"])
def test_an_entry_that_is_no_host_is_a_configuration_error(monkeypatch, entry):
    monkeypatch.setenv("CAPRICIOUS_ALLOWED_HOSTS", f"museum.org, {entry}")
    with pytest.raises(ConfigError, match="found: "):
        web.AllowedHosts.from_environment()


# Servers that are slow, busy or broken


def test_a_busy_server_is_asked_again_when_it_says(museum):
    url = show(museum, "/a", b"", status=429, **{"Retry-After": "7"})
    show(museum, "/a", b"", status=503, **{"Retry-After": formatdate(web.time.time() + 60, usegmt=True)})
    show(museum, "/a", b"", status=503)
    show(museum, "/a", b"at last")
    assert web.fetch(url, allowed("127.0.0.1"), 100) == b"at last"
    seven, sixty, backoff = museum.waits
    assert seven == 7 and 50 < sixty <= 60 and backoff == 4


def test_patience_has_an_end(museum):
    url = show(museum, "/a", b"", status=503)
    with pytest.raises(OSError, match="gave up after 5 attempts: the server answers 503"):
        web.fetch(url, allowed("127.0.0.1"), 100)
    tomorrow = show(museum, "/b", b"", status=429, **{"Retry-After": "86400"})
    with pytest.raises(OSError, match="gave up after 1 attempts"):
        web.fetch(tomorrow, allowed("127.0.0.1"), 100)


def test_other_errors_are_not_tried_again(museum):
    url = show(museum, "/a", b"", status=403)
    with pytest.raises(OSError, match="the server answers 403"):
        web.fetch(url, allowed("127.0.0.1"), 100)
    assert museum.asked["/a"] == 1


def test_a_connection_that_breaks_in_the_middle_is_tried_again(museum):
    url = show(museum, "/a", b"half", **{"Content-Length": "8"})
    show(museum, "/a", b"complete")
    assert web.fetch(url, allowed("127.0.0.1"), 100) == b"complete"


def test_a_file_too_large_is_rejected(museum):
    url = show(museum, "/a", b"x" * 101)
    with pytest.raises(Rejection, match="too-many-bytes"):
        web.fetch(url, allowed("127.0.0.1"), 100)
    assert web.fetch(url, allowed("127.0.0.1"), 101) == b"x" * 101


def test_nobody_listens(museum):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="gave up after 5 attempts"):
            web.fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/a", allowed("127.0.0.1"), 100)


def test_identifiers_with_spaces_and_accents(museum):
    show(museum, "/Ren%C3%A9%20Magritte.jpg", b"a")
    assert web.fetch(museum.url + "/René Magritte.jpg", allowed("127.0.0.1"), 100) == b"a"
    assert web.fetch(museum.url + "/Ren%C3%A9%20Magritte.jpg", allowed("127.0.0.1"), 100) == b"a"
