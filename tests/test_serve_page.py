"""The page in a real browser: Debian's Chromium, headless. The bundle has random weights: wiring only.

`apt-get install chromium`, or name a browser by CHROMIUM; without one these tests are skipped.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_tools import PHOTO, random_bundle, running

from capricious.faces.image import decode
from capricious.render.provenance import read_stamp
from serve.arguments import PortraitArguments
from serve.gates import tokens_from_environment

SCREENSHOTS = os.environ.get("SCREENSHOTS")
"""A folder to leave pictures of the page in, for people to look at."""
BUNDLE = os.environ.get("BUNDLE")
"""Another bundle than the random one, for pictures that are worth looking at."""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> PortraitArguments:
    folder = tmp_path_factory.mktemp("page")
    return PortraitArguments(bundle=BUNDLE or str(random_bundle(folder / "random")))


@pytest.fixture(scope="module")
def portrait(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("portraits") / "astro <b>naut.jpg"
    path.write_bytes(PHOTO)
    return path


@pytest.fixture(scope="module")
def url(arguments) -> Iterator[str]:
    with running(arguments) as url:
        yield url


def opened(browser, url: str, path: str = "/", **options):
    """Opens the page; whatever it logs as an error, or asks of another host, fails the test at the end."""
    page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("request", lambda r: r.url.startswith((url, "data:", "blob:")) or page.wrong.append(r.url))
    page.set_default_timeout(90_000)
    page.goto(url + path)
    return page


def photographed(page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


def rendered(page) -> None:
    """Waits until every age of the slider is there."""
    page.wait_for_selector("#ready:not(:has(i:not(.is)))", state="attached")


def test_a_curator_drops_a_portrait_and_drags_the_slider(browser, url, portrait):
    page = opened(browser, url)
    photographed(page, "welcome")
    page.set_input_files("#file", portrait)
    page.wait_for_selector("#studio:not([hidden])")
    assert page.inner_text("#name") == portrait.name  # as text, not as markup
    assert "One face: about" in page.inner_text("#caption")
    rendered(page)
    before = page.get_attribute("#after", "src")
    page.focus("#age")
    page.keyboard.press("End")
    assert page.inner_text("#shown") == "80 years" and page.get_attribute("#age", "aria-valuetext") == "80 years"
    assert page.get_attribute("#after", "src") != before
    assert page.is_visible("#mark") and page.inner_text("#mark") == "AI-altered"
    photographed(page, "desktop")
    assert not page.is_visible("#faces polygon")
    page.check("#outlines")
    assert page.is_visible("#faces polygon")
    photographed(page, "outlined")
    page.focus("#split")
    for _ in range(50):
        page.keyboard.press("ArrowRight")
    assert page.is_visible("#seam")
    photographed(page, "compare")
    page.keyboard.press("End")
    assert not page.is_visible("#mark")  # nothing but the original is to be seen
    assert page.wrong == []


def test_who_has_no_portrait_takes_a_sample(browser, url):
    page = opened(browser, url)
    page.wait_for_selector("#samples button")
    assert page.locator("#samples button").count() == 12
    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#studio:not([hidden])")
    assert page.inner_text("#name") == "sitter-02.png" and "One face" in page.inner_text("#caption")
    photographed(page, "sample")
    assert page.wrong == []


def test_looks_are_rendered_and_remembered(browser, url, portrait):
    page = opened(browser, url)
    page.set_input_files("#file", portrait)
    page.wait_for_selector("#studio:not([hidden])")
    rendered(page)
    first = page.get_attribute("#after", "src")
    page.click("#glasses >> text=sun")
    assert page.get_attribute("#glasses [data-value=sun]", "aria-pressed") == "true"
    rendered(page)
    assert page.get_attribute("#after", "src") != first
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.click("#glasses >> text=as they are")
    assert page.get_attribute("#after", "src") == first
    assert not [url for url in asked if "/v1/" in url]
    assert page.wrong == []


def test_a_saved_picture_says_what_it_is(browser, url, portrait):
    page = opened(browser, url)
    page.set_input_files("#file", portrait)
    page.wait_for_selector("#studio:not([hidden])")
    page.focus("#age")
    page.keyboard.press("Home")
    for save, name in (("picture", "-age-10.png"), ("sheet", "-sheet.png")):
        with page.expect_download() as download:
            page.click(f"[data-save={save}]")
        assert download.value.suggested_filename.endswith(name)
        content = Path(download.value.path()).read_bytes()
        assert decode(content, name=name).ndim == 3 and "age-10" in read_stamp(content)["variants"]
    assert page.wrong == []


def test_errors_are_said_in_plain_words(browser, url, tmp_path):
    page = opened(browser, url)
    (tmp_path / "letter.jpg").write_bytes(b"Dear museum")
    page.set_input_files("#file", tmp_path / "letter.jpg")
    page.wait_for_selector("#message.alarm")
    assert page.inner_text("#message") == "This file is not a picture."
    assert page.get_attribute("#message", "role") == "status"
    photographed(page, "error")


def test_a_phone_and_the_dark(browser, url, portrait):
    page = opened(browser, url, viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    page.set_input_files("#file", portrait)
    page.wait_for_selector("#studio:not([hidden])")
    rendered(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, ground[4:-1].split(","))) < 60
    photographed(page, "phone-dark")


def test_the_page_asks_for_a_token_where_one_is_needed(browser, arguments, portrait, monkeypatch):
    monkeypatch.setenv("CAPRICIOUS_TOKENS", "anna:0123456789abcdef")
    with running(arguments, tokens_from_environment()) as url:
        page = opened(browser, url)
        page.wait_for_selector("#token:not([hidden])")
        page.fill("#secret", "a wrong token of some length")
        page.keyboard.press("Enter")
        page.wait_for_selector("#message.alarm")
        page.fill("#secret", "0123456789abcdef")
        photographed(page, "token")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token", state="hidden")
        page.set_input_files("#file", portrait)
        rendered(page)
        assert page.wrong == []


def test_everything_has_a_name_for_a_screen_reader(browser, url, portrait):
    page = opened(browser, url)
    page.set_input_files("#file", portrait)
    page.wait_for_selector("#studio:not([hidden])")
    rendered(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, button, img, select')].filter(e => e.offsetParent &&
        !(e.labels?.length || e.textContent.trim() || e.alt || e.getAttribute('aria-label'))).map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("document.documentElement.lang") == "en"
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"age", "split", "known"} <= set(reached)


def test_the_manual_shows_every_route(browser, url):
    page = opened(browser, url, "/docs")
    page.wait_for_selector("section")
    text = page.inner_text("main")
    for route in ("/v1/annotations", "/v1/sweeps", "/v1/renders", "/v1/batches", "/healthz"):
        assert route in text
    photographed(page, "docs")
    assert page.wrong == []
