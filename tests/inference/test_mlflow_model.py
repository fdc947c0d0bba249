"""The MLflow model: the card's signature, the detector's numbers, and all its code inside."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from deformable_detr_refine.inference.detector import Detector

mlflow = pytest.importorskip("mlflow", reason='pip install "deformable-detr-refine[mlflow]"')
pandas = pytest.importorskip("pandas")

from deformable_detr_refine.inference.mlflow_model import export_mlflow  # noqa: E402
from deformable_detr_refine.serving.export.mlflow_app import build_app  # noqa: E402


@pytest.fixture(scope="module")
def exported(saved_small, module_folder) -> Path:
    folder = module_folder("mlflow") / "exported"
    export_mlflow(saved_small, folder)
    return folder


@pytest.fixture(scope="module")
def pyfunc(exported):
    return mlflow.pyfunc.load_model(str(exported))


@pytest.fixture(scope="module")
def pictures(samples) -> list[bytes]:
    return [file.read_bytes() for file in sorted(samples.glob("*.jpg"))[:2]]


@pytest.fixture(scope="module")
def answer(saved_small):
    """What the detector itself says, as Azure's response. In batches of another size the last digits differ."""
    detector = Detector(saved_small)
    return lambda pictures: [found.to_azure() for found in detector.detect(pictures)]


def assert_same_boxes(found: list[dict], expected: list[dict]) -> None:
    """Of two processes: their last digits may differ, as they compute with other threads."""
    assert [box["label"] for box in found] == [box["label"] for box in expected]
    found, expected = ([[*box["box"].values(), box["score"]] for box in boxes] for boxes in (found, expected))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_signature_is_the_cards(pyfunc):
    signature = pyfunc.metadata.signature
    assert signature.inputs.to_dict() == [{"type": "binary", "name": "image", "required": True}]
    assert [(column["type"], column["name"]) for column in signature.outputs.to_dict()] == [("string", "boxes")]
    assert {param.name: param.default for param in signature.params.params} == {"threshold": 0.0, "top_k": 100}


def test_predicts_what_the_detector_finds(pyfunc, pictures, answer):
    table = pyfunc.predict(pandas.DataFrame({"image": pictures}, index=[7, 3]))
    assert list(table.columns) == ["boxes"]
    assert list(table.index) == [7, 3]
    assert [json.loads(text) for text in table["boxes"]] == [found["boxes"] for found in answer(pictures)]


def test_parameters(pyfunc, pictures, answer):
    frame = pandas.DataFrame({"image": pictures[:1]})
    boxes = answer(pictures[:1])[0]["boxes"]
    threshold = boxes[9]["score"]
    few = pyfunc.predict(frame, params={"threshold": threshold, "top_k": 3})
    assert json.loads(few["boxes"][0]) == boxes[:3]
    few = pyfunc.predict(frame, params={"threshold": threshold})
    assert json.loads(few["boxes"][0]) == [box for box in boxes if box["score"] > threshold]
    for params in ({"threshold": 1.5}, {"top_k": 0}):
        with pytest.raises(mlflow.exceptions.MlflowException, match="expected a"):
            pyfunc.predict(frame, params=params)


def test_a_bad_image_has_its_error_in_its_place(pyfunc, pictures, answer):
    table = pyfunc.predict(pandas.DataFrame({"image": [pictures[0], b"damaged", b"http://127.0.0.1:9/a.jpg"]}))
    assert json.loads(table["boxes"][0]) == answer(pictures[:1])[0]["boxes"] and pandas.isna(table["error"][0])
    assert list(table["boxes"][1:]) == ["[]", "[]"]
    assert "not an image" in table["error"][1] and "not public" in table["error"][2]


@pytest.mark.slow
def test_the_code_comes_from_the_folder_and_nothing_is_pickled(exported, pictures, answer, tmp_path):
    assert not [file for file in exported.rglob("*") if file.suffix in (".pkl", ".pickle", ".pth", ".pt", ".bin")]
    (tmp_path / "image").write_bytes(pictures[0])
    script = f"""
import json, sys
from pathlib import Path
# An editable installation is found by its own finder.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
import mlflow, pandas
model = mlflow.pyfunc.load_model({str(exported)!r})
table = model.predict(pandas.DataFrame({{"image": [Path({str(tmp_path / "image")!r}).read_bytes()]}}))
files = {{name: module.__file__ for name, module in sys.modules.items() if name.startswith("deformable_detr_refine")}}
print(json.dumps([files, json.loads(table["boxes"][0])]))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert result.returncode == 0, result.stderr
    files, boxes = json.loads(result.stdout.splitlines()[-1])
    assert files and all(Path(file).is_relative_to(exported) for file in files.values())
    assert_same_boxes(boxes, answer(pictures[:1])[0]["boxes"])


def test_requirements_are_what_an_environment_needs(exported):
    lines = (exported / "requirements.txt").read_text().split()
    names = [line.partition("==")[0] for line in lines]
    assert {"mlflow", "torch", "torchvision", "transformers", "timm", "pandas"} <= set(names)
    assert all("==" in line and "+" not in line for line in lines)
    assert not {"openmim", "mmdet", "mmcv", "deformable-detr-refine"} & set(names)


def test_only_the_models_own_files_travel(saved_small, tmp_path):
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / name).symlink_to(saved_small / name)
    (tmp_path / "model" / "checkpoint-10").mkdir()
    (tmp_path / "model" / "optimizer.pt").write_bytes(b"no")
    export_mlflow(tmp_path / "model", tmp_path / "out")
    held = sorted(file.name for file in (tmp_path / "out" / "artifacts" / "model").iterdir())
    assert held == ["config.json", "model.safetensors", "preprocessor_config.json"]


def test_an_export_is_refused_before_anything_is_written(saved_small, exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model folder"):
        export_mlflow(tmp_path / "none", tmp_path / "out")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text((saved_small / "config.json").read_text())
    with pytest.raises(OSError):
        export_mlflow(tmp_path / "broken", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="not empty"):
        export_mlflow(saved_small, exported)
    with pytest.raises(ValueError, match="is what is read"):
        export_mlflow(saved_small, saved_small, force=True)
    # Not any MLflow model, which may hold the only copy of a checkpoint.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "MLmodel").touch()
    with pytest.raises(ValueError, match="not empty"):
        export_mlflow(saved_small, tmp_path / "other", force=True)
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["MLmodel"]


@pytest.fixture(scope="module")
def client(exported):
    testclient = pytest.importorskip("starlette.testclient")
    with testclient.TestClient(build_app(str(exported))) as client:
        yield client


def base64_of(pictures) -> list[str]:
    return [base64.encodebytes(picture).decode() for picture in pictures]


@pytest.mark.parametrize("path", ["/invocations", "/score"])
def test_adapter_takes_azures_request(client, pictures, answer, path):
    data = {"columns": ["image"], "index": [0, 1], "data": base64_of(pictures)}
    response = client.post(path, json={"input_data": data})
    assert (response.status_code, response.json()) == (200, answer(pictures))
    response = client.post(path, json={"input_data": {**data, "data": ["no base64!", data["data"][1]]}})
    assert response.status_code == 200
    assert response.json()[0]["boxes"] == [] and response.json()[0]["error"]
    assert response.json()[1] == answer(pictures[1:])[0]


BODIES = ('{"input_data": 3}', '{"input_data": [', '{"input_data": {"data": [1]}}', "[" * 9000, '{"a":' * 5000, "x")


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:28])
def test_adapter_says_what_is_wrong_in_one_sentence(client, body):
    response = client.post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert list(response.json()) == ["message"] and "\n" not in response.json()["message"]


def test_adapter_leaves_mlflows_own_requests_to_mlflow(client, pictures, answer):
    assert client.get("/").status_code == client.get("/ping").status_code == 200
    split = {"columns": ["image"], "data": [[text] for text in base64_of(pictures)]}
    response = client.post("/invocations", json={"dataframe_split": split})
    found = [json.loads(row["boxes"]) for row in response.json()["predictions"]]
    assert found == [one["boxes"] for one in answer(pictures)]
    assert client.post("/invocations", json={"nothing": 1}).status_code == 400
    params = {"threshold": None}
    assert client.post("/invocations", content=json.dumps({"dataframe_split": split, "params": params})).is_success
    for table in ("", 'image\n"unclosed'):
        response = client.post("/invocations", content=table, headers={"Content-Type": "text/csv"})
        assert response.status_code == 400 and response.json()["message"] and "Traceback" not in response.text


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such groups of processes")
def test_mlflow_models_serve_answers(exported, pictures, answer, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(exported), "--env-manager", "local"]
    # The server looks for uvicorn on PATH.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 600
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        encoded = base64_of(pictures)
        for body in (
            {"dataframe_split": {"columns": ["image"], "data": [[text] for text in encoded]}},
            {"dataframe_records": [{"image": text} for text in encoded], "params": {"top_k": 7}},
        ):
            request = urllib.request.Request(
                f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as response:
                rows = json.load(response)["predictions"]
            most = body.get("params", {}).get("top_k", 100)
            for row, one in zip(rows, answer(pictures), strict=True):
                assert_same_boxes(json.loads(row["boxes"]), one["boxes"][:most])
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
