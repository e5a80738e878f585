"""Parts of the service against their definitions: gates, places, caches, and forward passes that callers share."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from serve_tools import PHOTO, face, random_bundle, running

from capricious.errors import ConfigError
from capricious.model.bundle import load_bundle
from capricious.render.renderer import Renderer
from capricious.render.sweep import Sweep
from serve.arguments import PortraitArguments
from serve.caching import SizedCache
from serve.gates import Rate, tokens_from_environment
from serve.places import Prefix, check_place
from serve.shared_chunks import SharedChunkRenderer


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("bundle") / "random")


# Without and with layers for Winograd's convolutions, and with a refinement network.
@pytest.mark.parametrize(("width", "refined"), [(4, False), (16, False), (4, True)])
def test_a_shared_forward_pass_gives_the_very_bits_of_a_lone_one(tmp_path, width, refined):
    random_bundle(tmp_path, width=width, refined=refined)
    alone = Renderer(load_bundle(tmp_path), threads=1)
    shared = SharedChunkRenderer(load_bundle(tmp_path), threads=1, cache_bytes=2**28)
    faces = [face(seed) for seed in range(3)]
    variants = Sweep((20.0, 40.0, 60.0, 80.0)).variants()
    groups = [(faces[0], variants[:1]), (faces[1], variants), (faces[2], variants[2:3]), (faces[0], variants[1:4])]
    for _ in range(2):  # the second time from the cache
        for (who, asked), renders in zip(groups, shared.render_groups(groups), strict=True):
            assert np.array_equal(renders, alone.render(who, asked))
    older = replace(faces[1], attributes=faces[1].attributes.override(age=70.0))  # told apart, whoever came first
    for who in (older, faces[1]):
        (renders,) = shared.render_groups([(who, variants)])
        assert np.array_equal(renders, alone.render(who, variants))
    assert shared.render_groups([]) == []


@pytest.mark.parametrize("refined", [False, True])
def test_the_style_cache_stays_within_its_memory(tmp_path, refined):
    bundle_folder = random_bundle(tmp_path / "bundle", refined=refined)
    shared = SharedChunkRenderer(load_bundle(bundle_folder), threads=1, cache_bytes=2**40)
    variants = Sweep((30.0,)).variants()
    shared.render_groups([(face(0), variants)])
    one = shared._styles.bytes
    assert one > 0
    small = SharedChunkRenderer(load_bundle(bundle_folder), threads=1, cache_bytes=2 * one)
    for seed in range(5):
        small.render_groups([(face(seed), variants)])
        assert small._styles.bytes <= 2 * one


def test_the_least_recently_used_goes_first_and_too_large_is_not_kept():
    cache = SizedCache("test", 10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    assert cache.get("a") == 1
    cache.put("c", 3, 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), cache.bytes) == (1, None, 3, 8)
    cache.put("a", 5, 6)
    assert (cache.get("a"), cache.get("c"), cache.bytes) == (5, 3, 10)
    cache.put("d", 6, 11)
    assert cache.get("d") is None and cache.bytes == 10


def test_a_bucket_fills_again_at_its_rate():
    rate = Rate(per_minute=60, burst=2)
    assert [rate.wait("a", 0.0), rate.wait("a", 0.0)] == [0.0, 0.0]
    assert rate.wait("a", 0.0) == pytest.approx(1.0)
    assert rate.wait("b", 0.0) == 0.0
    assert rate.wait("a", 0.25) == pytest.approx(0.75)
    assert rate.wait("a", 1.0) == 0.0
    assert [rate.wait("a", 1000.0), rate.wait("a", 1000.0)] == [0.0, 0.0] and rate.wait("a", 1000.0) > 0
    assert Rate(0, 1).wait("a", 0.0) == 0.0


def test_tokens_are_read_as_digests_and_short_ones_refused(monkeypatch):
    monkeypatch.setenv("CAPRICIOUS_TOKENS", "anna:0123456789abcdef, ben:fedcba9876543210")
    tokens = tokens_from_environment()
    assert list(tokens.values()) == ["anna", "ben"] and not any("abcdef" in digest[-7:] for digest in tokens)
    for wrong in ("anna", "anna:short", ":0123456789abcdef"):
        monkeypatch.setenv("CAPRICIOUS_TOKENS", wrong)
        with pytest.raises(ConfigError, match="entry 1") as caught:
            tokens_from_environment()
        assert "0123456789abcdef" not in str(caught.value)


def test_who_has_no_token_gets_in_nowhere_and_who_has_one_at_its_rate(bundle_folder, monkeypatch):
    import httpx

    monkeypatch.setenv("CAPRICIOUS_TOKENS", "anna:0123456789abcdef,ben:fedcba9876543210")
    arguments = PortraitArguments(bundle=str(bundle_folder), rate_per_minute=1, burst=2)
    with running(arguments, tokens_from_environment()) as url, httpx.Client(base_url=url, timeout=60) as http:

        def bundle(authorization: str | None) -> httpx.Response:
            return http.get("/v1/bundle", headers={"Authorization": authorization} if authorization else {})

        for wrong in (
            None,
            "Bearer",
            "Bearer 0123456789abcdeg",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ):
            refused = bundle(wrong)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        # Refused before its body is read.
        assert http.post("/v1/sweeps", files={"file": PHOTO}).status_code == 401
        for path in ("/", "/docs", "/healthz", "/readyz", "/openapi.json"):
            assert http.get(path).status_code == 200
        assert [bundle("Bearer 0123456789abcdef").status_code for _ in range(3)] == [200, 200, 429]
        late = bundle("bearer 0123456789abcdef")
        assert late.json()["reason"] == "rate-limit" and 50 <= int(late.headers["retry-after"]) <= 60
        assert bundle("Bearer fedcba9876543210").status_code == 200


ALLOWED = tuple(Prefix.parse(p) for p in ("s3://museum/open/", "/data/portraits", "https://iiif.museum.org"))


@pytest.mark.parametrize(
    "place", ["s3://museum/open", "s3://museum/open/a/b", "/data/portraits/x", "https://iiif.museum.org/manifest.json"]
)
def test_places_below_an_allowed_prefix_are_allowed(place):
    assert check_place(place, ALLOWED) == place


@pytest.mark.parametrize(
    "place",
    [
        "s3://museum/opened",
        "s3://museum",
        "s3://museum/open/../secret",
        "s3://museum/open/%2e%2e/secret",
        "s3://other/open/",
        "/data/portraits-private/x",
        "/data/portraits/../../etc",
        "/etc/passwd",
        "data/portraits",
        "//data/portraits",
        "file:///data/portraits",
        "file:/data/portraits",
        "https://iiif.museum.org@evil.example/",
        "https://iiif.museum.org.evil.example/",
        "http://iiif.museum.org/",
        "http://169.254.169.254/latest/meta-data/",
        "gs://museum/open/",
        "s3://museum/open/ --device cuda",
        "s3://museum/open/*",
        "",
    ],
)
def test_all_other_places_are_refused(place):
    with pytest.raises(ValueError, match="address"):
        check_place(place, ALLOWED)


def test_a_link_leads_no_further_than_the_prefix(tmp_path):
    (tmp_path / "allowed").mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "allowed/link").symlink_to(tmp_path / "private")
    (tmp_path / "prefix").symlink_to(tmp_path / "allowed")
    allowed = [Prefix.parse(f"{tmp_path}/prefix")]
    assert check_place(f"{tmp_path}/prefix/new", allowed)
    with pytest.raises(ValueError, match="must be below"):
        check_place(f"{tmp_path}/prefix/link/new", allowed)


@pytest.mark.parametrize(
    "prefix",
    [
        "http://169.254.169.254/",
        "http://127.0.0.1:9000/",
        "http://[::1]/",
        "http://[64:ff9b::a00:1]/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://localhost/x",
        "http://10.0.0.7/",
        "http://metadata.google.internal/",
        "file:///",
        "relative",
        "*",
    ],
)
def test_an_operator_cannot_allow_what_leads_into_the_private_network_or_means_nothing(prefix):
    with pytest.raises(ValidationError, match="an address must"):
        PortraitArguments(bundle="bundle", batch_prefixes=f"s3://museum/, {prefix}")
