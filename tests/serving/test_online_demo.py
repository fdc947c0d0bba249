"""The demo page in a real browser: a picture goes in, boxes come out, the threshold counts, all of it local."""

import io
import re
import shutil
import socket
import urllib.request
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from deformable_detr_refine.inference.detector import Detector

pytest.importorskip("gradio", reason='pip install "deformable-detr-refine[demo]"')
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="the page is looked at in Chromium")]

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PATIENCE = 120_000


@pytest.fixture(scope="module")
def ready(saved) -> Detector:
    return Detector(saved, device="cpu")


@pytest.fixture(scope="module")
def address(ready):
    from deformable_detr_refine.serving.demo import build_page, launch

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = build_page(ready, "tiny")
    launch(page, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


def shown(page) -> Image.Image:
    """The picture on the right as the browser has it."""
    url = page.locator("#found img").get_attribute("src")
    with urllib.request.urlopen(url) as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


def test_a_picture_is_drawn_and_the_threshold_counts(address, browser, ready, samples, tmp_path):
    photo = samples / "10.jpg"
    (expected,) = ready.detect([photo])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    requested, failures = set(), []
    page.on("request", lambda request: requested.add(urlsplit(request.url).hostname))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(address)
    sync_api.expect(page).to_have_title("tiny", timeout=PATIENCE)

    threshold = page.locator("#threshold input[type=number]")
    threshold.fill("0")
    threshold.press("Enter")
    page.locator("#picture input[type=file]").set_input_files(str(photo))
    page.locator("#found img").wait_for()
    sync_api.expect(page.locator("#summary")).to_contain_text("100 objects above 0.00", timeout=PATIENCE)
    everything = shown(page)
    original = Image.open(photo).convert("RGB")
    assert everything.size == original.size

    middle = round(float(expected.scores[20]), 2)
    count = int((expected.scores > middle).sum())
    threshold.fill(str(middle))
    threshold.press("Enter")
    text = re.compile(rf"\b{count} objects? above {middle:.2f} in {original.width} x {original.height} pixels")
    sync_api.expect(page.locator("#summary")).to_contain_text(text, timeout=PATIENCE)
    fewer = shown(page)
    page.screenshot(path=tmp_path / "page.png")

    changed = [np.abs(np.asarray(image, int) - np.asarray(original, int)).mean() for image in (everything, fewer)]
    assert changed[0] > changed[1] >= 0
    assert expected.filter(middle).names[0] in page.locator("#classes").inner_text() or count == 0
    assert requested <= {"127.0.0.1", None} and not failures

    page.set_viewport_size({"width": 400, "height": 800})  # a telephone: what is found follows what it depends on
    sizes = [page.locator(part).bounding_box() for part in ("#picture", "#threshold", "#found", "#summary", "#classes")]
    assert sizes == sorted(sizes, key=lambda size: size["y"]) and sizes[2]["height"] < 400


def test_a_file_that_is_no_picture_is_told(address, browser, tmp_path):
    bad = tmp_path / "thin.png"
    Image.new("RGB", (5000, 1)).save(bad)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#picture input[type=file]").set_input_files(str(bad))
    sync_api.expect(page.get_by_text("is too thin").first).to_be_visible(timeout=PATIENCE)
    assert "Error" not in page.locator("body").inner_text()
