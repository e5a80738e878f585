"""The gallery in a real browser, opened from a disk as a curator opens it: Debian's Chromium, headless.

`apt-get install chromium`, or name a browser by CHROMIUM; without one these tests are skipped.
"""

import csv
import os

import pytest
from skimage.data import astronaut

from capricious.faces.image import encode
from capricious.render.gallery import PAGE, GalleryWriter

SCREENSHOTS = os.environ.get("SCREENSHOTS")
"""A folder to leave pictures of the page in, for people to look at."""


EVIL = "<img src=x onerror=\"document.title='broken'\">"
RENDERED = PAGE + 3


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweeps")

    def write(name, content):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)

    writer = GalleryWriter(write)
    for number in range(RENDERED):
        folder, title = f"portraits/{number:02d}", EVIL if number == 1 else f"1907.{number}"
        entry = {"folder": folder, "title": title, "uri": f"s3://museum/{title}.jpg", "rights": "CC0", "faces": 1}
        products = {"age-20": "age-20.jpg", "age-110": "age-110.jpg", "sheet": "sheet.jpg"}
        for file in products.values():
            write(f"{folder}/{file}", encode(astronaut()[::4, ::4], "jpeg"))
        files = {product: f"{folder}/{file}" for product, file in products.items()}
        writer.add("ok", {**entry, "files": files, "extrapolated": ["age-110"]})
    reason = {"stage": "detect", "reason": "no-face", "detail": "no face was found", "rights": None}
    writer.add("failed", {"folder": "a", "title": "=SUM(1,1)", "uri": "=SUM(1,1)", **reason})
    writer.close("Sweeps")
    return out / "gallery" / "index.html"


@pytest.fixture
def page(browser, gallery):
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "blob:")) or wrong.append(request.url))
    page.goto(gallery.as_uri())
    page.wait_for_selector("article")
    yield page
    context.close()
    assert wrong == []


def test_a_curator_approves_rejects_and_hands_the_marks_on(page, tmp_path):
    first, second = page.locator("article").nth(0), page.locator("article").nth(1)
    first.get_by_role("button", name="Approve").click()
    second.get_by_role("button", name="Reject").click()
    page.get_by_role("button", name="→").click()
    page.wait_for_function(f"document.querySelectorAll('article').length === {RENDERED - PAGE}")
    page.locator("article").nth(0).get_by_role("button", name="Approve").click()
    page.get_by_role("button", name="Failed 1").click()
    page.wait_for_selector("text=no face was found")
    page.reload()  # marks outlive the page
    page.get_by_role("button", name="Approved 2").click()
    assert page.locator("article h2").all_inner_texts() == ["1907.0", f"1907.{PAGE}"]
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/gallery-approved.png", full_page=True)
    page.get_by_role("button", name="Rejected 1").click()
    assert page.locator("article h2").all_inner_texts() == [EVIL] and page.title() == "Sweeps"
    with page.expect_download() as download:
        page.get_by_role("button", name="Export marks").click()
    download.value.save_as(tmp_path / "marks.csv")
    rows = list(csv.reader((tmp_path / "marks.csv").open(newline="")))
    assert rows == [
        ["folder", "uri", "mark"],
        ["portraits/00", "s3://museum/1907.0.jpg", "approved"],
        ["portraits/01", f"s3://museum/{EVIL}.jpg", "rejected"],
        [f"portraits/{PAGE}", f"s3://museum/1907.{PAGE}.jpg", "approved"],
    ]
    page.locator("article").get_by_role("button", name="Reject").click()  # once more takes the mark away
    page.get_by_role("button", name="Rejected 0").click()
    page.wait_for_selector("text=Nothing here.")


def test_every_portrait_is_labelled_and_a_guess_says_so(page):
    assert page.locator("article .label").all_inner_texts() == ["AI-altered"] * PAGE
    first = page.locator("article").nth(0)
    assert first.locator(".files a").all_inner_texts() == ["age-20", "age-110*"]
    assert "* extrapolated" in first.inner_text()
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/gallery.png")
