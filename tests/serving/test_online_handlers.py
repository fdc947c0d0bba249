"""The scripts that other services call: Hugging Face's endpoints and Azure's batch endpoints."""

import base64
import csv
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deformable_detr_refine.serving
from deformable_detr_refine.inference.detector import Detector

HANDLER = Path(deformable_detr_refine.serving.__file__).parent / "hub_handler.py"


@pytest.fixture(scope="module")
def photo(samples) -> bytes:
    return (samples / "10.jpg").read_bytes()


@pytest.fixture(scope="module")
def handler(saved):
    """As an endpoint loads it: the file by its path."""
    spec = importlib.util.spec_from_file_location("handler", HANDLER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(saved))


def test_an_endpoint_answers_as_the_pipeline(handler, saved, photo):
    (expected,) = Detector(saved, device="cpu").detect([photo])
    everything = {"threshold": 0.0}
    for inputs in (photo, base64.encodebytes(photo).decode(), Image.open(io.BytesIO(photo))):
        answer = json.loads(json.dumps(handler({"inputs": inputs, "parameters": everything})))
        assert [item["label"] for item in answer] == expected.names
        np.testing.assert_allclose([item["score"] for item in answer], expected.scores, atol=1e-6)
        corners = [[item["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")] for item in answer]
        np.testing.assert_allclose(corners, expected.boxes, atol=0.51)


def test_a_list_has_an_answer_or_an_error_for_each(handler, photo):
    good = base64.b64encode(photo).decode()
    answers = handler({"inputs": [good, "?", "https://example.org/a.jpg", 7, good], "parameters": {"top_k": 1}})
    assert answers[0] == answers[4]
    assert ["error" in answer for answer in answers] == [False, True, True, True, False]
    assert "URLs are not fetched" in answers[2]["error"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "base64 or a picture, not NoneType"),
        ({"inputs": "?"}, "not base64"),
        ({"inputs": b"no image"}, "not an image"),
        ({"inputs": b"", "parameters": {"treshold": 1}}, "threshold and top_k, not treshold"),
        ({"inputs": b"", "parameters": [1]}, "threshold and top_k"),
        ({"inputs": b"", "parameters": {"threshold": 2}}, "threshold is 2"),
        ({"inputs": b"", "parameters": {"top_k": 0}}, "top_k is 0"),
        ({"inputs": ["a"] * 33}, "has 33 images, the limit is 32"),
    ],
)
def test_what_an_endpoint_refuses(data, words, handler):
    with pytest.raises(ValueError, match=words):
        handler(data)


@pytest.mark.slow
def test_an_endpoint_needs_the_repository_only(saved, tmp_path, photo):
    """The package hidden, the model's own code and the handler beside it."""
    repository = tmp_path / "repository"
    repository.mkdir()
    for file in saved.iterdir():
        (repository / file.name).symlink_to(file)
    (repository / "handler.py").write_text(HANDLER.read_text())
    (tmp_path / "photo.jpg").write_bytes(photo)
    code = (
        "import sys\n"
        "sys.modules['deformable_detr_refine'] = None\n"
        f"sys.path.insert(0, {str(repository)!r})\n"
        "from handler import EndpointHandler\n"
        f"answer = EndpointHandler({str(repository)!r})({{'inputs': open('photo.jpg', 'rb').read(),"
        " 'parameters': {'threshold': 0}})\n"
        "print(len(answer))\n"
    )
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600
    )
    assert done.stdout.strip() == "100", done.stderr


def test_a_batch_endpoint_scores_files_and_tables(saved, samples, tmp_path, monkeypatch, photo):
    from deformable_detr_refine.serving.azure import score_batch

    monkeypatch.setenv("AZUREML_MODEL_DIR", str(saved))
    monkeypatch.setenv("DDETR_DEVICE", "cpu")
    table = tmp_path / "images.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["image"], [base64.b64encode(photo).decode()], ["no image"]])
    bad = tmp_path / "bad\u2028.jpg"
    bad.write_bytes(b"no image")
    score_batch.init()
    lines = score_batch.run([str(samples / "10.jpg"), str(table), str(bad)])
    rows = list(csv.reader(lines))
    assert [(row[0], row[2]) for row in rows] == [
        ("0", "10.jpg"),
        ("0", "images.csv"),
        ("1", "images.csv"),
        ("0", bad.name),
    ]
    answers = [json.loads(row[1]) for row in rows]
    assert answers[0] == answers[1] and len(answers[0]["boxes"]) == 100
    assert [bool(answer.get("error")) for answer in answers] == [False, False, True, True]
