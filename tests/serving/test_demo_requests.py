"""What visitors may send to the demo page: pictures that they uploaded, and numbers; all else ends in one sentence."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys

import pytest
from PIL import Image
from support.small_detector import save_small_detector

from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.serving.demo import Refused, build_page, uploaded

gradio = pytest.importorskip("gradio", reason='pip install "deformable-detr-refine[demo]"')
FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, uploads):
    folder = save_small_detector(tmp_path_factory.mktemp("models") / "detector")
    return build_page(Detector(folder, "cpu"), "<i>cells</i> [a](http://b)")


def ask(page, *values, number=0):
    """Calls an event handler as a request does."""
    return asyncio.run(page.process_api(page.fns[number], list(values), gradio.state_holder.SessionState(page)))


def told(page, *values) -> str:
    with pytest.raises(gradio.Error) as caught:
        ask(page, *values)
    assert not caught.value.print_exception
    return caught.value.message


def photo(path, size=(64, 48)):
    Image.new("RGB", size, (120, 30, 30)).save(path)
    return path


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_no_path_of_a_client_is_opened_outside_the_upload_folder(page, uploads, tmp_path, monkeypatch):
    private = photo(tmp_path / "private.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(uploads / "pipe.png")
    (uploads / "link.png").symlink_to(private)
    (uploads / "round.png").symlink_to("round.png")
    (uploads / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
    paths = [
        *(str(private), "private.png", "../private.png", f"{uploads}/../private.png", str(tmp_path / "pipe.png")),
        *(str(uploads / name) for name in ("pipe.png", "link.png", "round.png", "folder", "absent.png")),
        *("", "\0", "\udcff", "a" * 5000, "http://127.0.0.1:1/a.png", "file://" + str(private), 7, [str(private)]),
    ]
    for path in paths:
        for value in ({"path": path}, {"path": path, **FILE}, {"path": path, "orig_name": "a.svg"}):
            with pytest.raises(Refused, match="only one that was uploaded here"):
                uploaded(value, uploads)
    for value in (str(private), [str(private)], {}, {"path": None, "url": "data:image/png;base64,AAAA"}):
        with pytest.raises(Refused):
            uploaded(value, uploads)
    for number in range(2):  # every event handler
        assert "only one that was uploaded here" in told(page, {"path": str(private)}, *[0.0] * (number + 1))


def test_an_uploaded_picture_is_looked_at(page, uploads):
    file = photo(uploads / "mine.png")
    sent = {"path": str(file), "url": "http://elsewhere.example", "orig_name": "\x1b.svg", **FILE}
    assert uploaded(sent, uploads) == {"path": str(file), **FILE}
    _, drawn, summary, classes = ask(page, sent, 0.0)["data"]
    assert "100 objects above 0.00 in 64 x 48 pixels" in summary and drawn["path"].startswith(str(uploads))
    assert sum(row[1] for row in classes["data"]) == 100


WRONG = {
    "threshold": (["mine.png", 7], "The threshold is 7, expected a number from 0 to 1"),
    "not a number": (["mine.png", float("nan")], "The threshold is nan"),
    "no threshold": (["mine.png", None], "not what the page asks for"),
    "a number": ([7, 0.0], "not what the page asks for"),
    "too few": ([], "not what the page asks for"),
}


@pytest.mark.parametrize(("values", "text"), WRONG.values(), ids=WRONG)
def test_errors_of_requests_are_one_sentence_here_and_there(page, uploads, caplog, values, text):
    photo(uploads / "mine.png")
    sent = [{"path": str(uploads / value)} if isinstance(value, str) else value for value in values]
    with caplog.at_level(logging.WARNING):
        message = told(page, *sent)
    assert text in message and str(uploads) not in message and "\n" not in message
    (record,) = [record for record in caplog.records if record.name.endswith("demo")]
    assert text in record.getMessage() and record.exc_info is None


def test_a_file_that_is_no_picture_is_told_in_its_place(page, uploads):
    photo(uploads / "thin.png", (5000, 1))
    (uploads / "text.png").write_text("<script>")
    for name, text in (("thin.png", "is too thin"), ("text.png", "The picture is not an image of a known format")):
        _, drawn, summary, classes = ask(page, {"path": str(uploads / name)}, 0.0)["data"]
        assert text in summary and drawn is None and not classes["data"]


def test_one_slow_picture_does_not_hold_the_others(page):
    assert all(function.concurrency_limit > 1 for function in page.fns.values())


HANGING = """
import signal, sys, time
from pathlib import Path
from threading import Thread
from deformable_detr_refine.inference.detector import Detector
from ddetr.main import main

def hang(*_):
    print("hangs", flush=True)
    time.sleep(1000)

def visit():
    import httpx
    address = f"http://127.0.0.1:{sys.argv[2]}/gradio_api"
    while True:
        try:
            (path,) = httpx.post(f"{address}/upload", files={"files": Path(sys.argv[3]).read_bytes()}).json()
            break
        except httpx.ConnectError:
            time.sleep(0.1)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    httpx.post(f"{address}/call/look", json={"data": [file, 0.3]})

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what it starts in the background
Detector.detect = hang
Thread(target=visit, daemon=True).start()
main(["demo", sys.argv[1], "--port", sys.argv[2]])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_also_where_a_picture_hangs(number, tmp_path):
    model = save_small_detector(tmp_path / "detector")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", HANGING, str(model), str(port), str(photo(tmp_path / "a.png"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert any("hangs" in line for line in process.stdout)
            process.send_signal(number)
            process.wait(30)
        finally:
            process.kill()


def test_the_page_says_what_it_finds_and_begins_with_the_models_threshold(page):
    parts = {block.elem_id: block for block in page.blocks.values() if block.elem_id}
    assert parts["threshold"].value == 0.3
    (text,) = [b.value for b in page.blocks.values() if isinstance(b, gradio.Markdown) and "#" in (b.value or "")]
    assert text.startswith("# (i)cells(/i) (a)(http://b): a") and "finds 5 classes of objects" in text
