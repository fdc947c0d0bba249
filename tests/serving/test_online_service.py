"""A request's body ends in a status and an answer, whatever it is; the model is found where Azure puts it."""

import base64
import json
from pathlib import Path

import pytest
from support.http_server import serving

from deformable_detr_refine import load_image
from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.serving.azure.service import Service, find_model, load_service
from deformable_detr_refine.serving.limits import Limits


@pytest.fixture(scope="module")
def ready(saved) -> Detector:
    return Detector(saved, device="cpu")


@pytest.fixture(scope="module")
def photo(samples) -> bytes:
    return (samples / "10.jpg").read_bytes()


def body(*images, **more) -> bytes:
    data = [base64.encodebytes(image).decode() if isinstance(image, bytes) else image for image in images]
    split = {"columns": ["image"], "index": list(range(len(data))), "data": data}
    return json.dumps({"input_data": split, **more}).encode()


def test_the_cards_request_has_the_cards_response(ready, photo, samples):
    other = (samples / "BloodImage_00000.jpg").read_bytes()
    status, answer = Service(ready, Limits()).answer(body(photo, other, photo))
    assert status == 200 and len(answer) == 3
    names = set(ready.network.id2label.values())
    for entry in answer:
        assert list(entry) == ["boxes"] and len(entry["boxes"]) == 100
        scores = [item["score"] for item in entry["boxes"]]
        assert scores == sorted(scores, reverse=True)
        for item in entry["boxes"]:
            assert list(item) == ["box", "label", "score"] and item["label"] in names
            assert list(item["box"]) == ["topX", "topY", "bottomX", "bottomY"]
            assert all(0 <= value <= 1 for value in item["box"].values())
    expected = [found.to_azure() for found in ready.detect([photo, other, photo])]
    assert json.loads(json.dumps(answer)) == expected


def test_parameters_reach_the_detector(ready, photo):
    service = Service(ready, Limits())
    (entry,) = service.answer(body(photo, params={"top_k": 3}))[1]
    assert len(entry["boxes"]) == 3
    (entry,) = service.answer(body(photo, params={"threshold": 1}))[1]
    assert entry == {"boxes": []}


def test_one_bad_image_has_its_error_and_the_others_are_served(ready, photo, monkeypatch):
    width, height = load_image(photo).size
    service = Service(ready, Limits())
    with serving({"/a.jpg": photo}) as address:
        status, answer = service.answer(
            body(f"{address}/a.jpg", "image1", photo, b"no image", photo[: len(photo) // 2])
        )
    assert status == 200
    assert [len(entry["boxes"]) for entry in answer] == [0, 0, 100, 0, 0]
    for entry, words in zip(answer, ("address is not public", "image", None, "not an image", "damaged"), strict=True):
        assert (words is None and "error" not in entry) or words in entry["error"]
    monkeypatch.setattr(ready, "max_pixels", width * height - 1)  # as Service.load makes it
    assert "megapixels, the limit is" in service.answer(body(photo))[1][0]["error"]


def test_urls_are_fetched_where_they_may_be(ready, photo):
    service = Service(ready, Limits(private_urls=True))
    with serving({"/a.jpg": photo}) as address:
        _, (from_url, from_bytes, missing) = service.answer(body(f"{address}/a.jpg\n", photo, f"{address}/b.jpg"))
    scores, others = ([item["score"] for item in entry["boxes"]] for entry in (from_url, from_bytes))
    assert len(scores) == 100 and scores == pytest.approx(others, abs=1e-5)
    assert missing["boxes"] == [] and "404" in missing["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"input_data": 3}', body(), body(7)])
def test_what_is_no_request_is_told_in_one_sentence(content, ready):
    status, answer = Service(ready, Limits()).answer(content)
    assert status == 400
    assert list(answer) == ["message"] and answer["message"].endswith(".") and "\n" not in answer["message"]


def test_a_bug_is_logged_and_tells_the_client_nothing(ready, photo, monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(Network, "detect", broken)
    status, answer = Service(ready, Limits()).answer(body(photo))
    assert status == 500 and "secret" not in answer["message"]
    assert "a secret of the inside" in caplog.text


def test_who_left_costs_nothing(ready, photo, monkeypatch):
    monkeypatch.setattr(Network, "detect", lambda *args: pytest.fail("computed"))
    assert Service(ready, Limits()).answer(body(photo), keep_going=lambda: False)[0] == 499


def test_the_environment_sets_everything(saved, tmp_path):
    registered = tmp_path / "azureml-models" / "name" / "1"
    registered.mkdir(parents=True)
    (registered / "detector").symlink_to(saved)
    variables = {"AZUREML_MODEL_DIR": str(registered / "detector"), "DDETR_DEVICE": "cpu", "DDETR_IMAGES": "2"}
    service = load_service(variables | {"DDETR_CORES": "1", "DDETR_BATCH_SIZE": "3", "DDETR_PIXELS": "1000"})
    assert (service.limits.images, service.detector.batch_size) == (2, 3)
    assert (service.detector.threads, service.detector.max_pixels) == (1, 1000)
    with pytest.raises(ValueError, match="DDETR_CORES is 'two', expected a whole number"):
        load_service(variables | {"DDETR_CORES": "two"})
    with pytest.raises(FileNotFoundError, match="No model is named"):
        load_service({})


def test_a_model_is_found_in_what_was_registered(tmp_path):
    def model(path: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        return file

    with pytest.raises(FileNotFoundError, match="holds no model"):
        find_model(str(tmp_path))
    folder = model("1/detector/config.json").parent
    assert find_model(str(tmp_path)) == find_model(str(folder)) == folder
    onnx = model("1/detector.onnx")
    assert find_model(str(onnx)) == onnx
    with pytest.raises(ValueError, match=r"holds 2 models \(1/detector, 1/detector\.onnx\): name one"):
        find_model(str(tmp_path))
