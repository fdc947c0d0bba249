"""`ddetr evaluate` from the outside: files, tables, and errors in one line."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.evaluated_images import one_image
from support.small_detector import save_small_detector

from ddetr.main import VERBS, main
from deformable_detr_refine import (
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
    load_image,
)

pytest.importorskip("datasets")
coco = pytest.importorskip("pycocotools.coco")
cocoeval = pytest.importorskip("pycocotools.cocoeval")

TWELVE = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
# The model's order is not that of the data set, and it knows a class more.
MODEL_NAMES = ["pear", "kiwi", "apple"]
CATEGORIES = [{"id": 3, "name": "apple"}, {"id": 7, "name": "pear"}, {"id": 9, "name": "unused"}]


@pytest.fixture(autouse=True)
def verb(monkeypatch):
    monkeypatch.setitem(VERBS, "evaluate", "measure a detector on a data set")


@pytest.fixture
def report(monkeypatch) -> dict:
    """What the report would be written with; drawing it takes longer than all else."""
    told = {}
    write = "deformable_detr_refine.evaluation.report.report.write_report"
    monkeypatch.setattr(write, lambda *args, **options: told.update(options))
    return told


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "detector"
    size = {"shortest_edge": 96, "longest_edge": 160}
    return save_small_detector(folder, size, MODEL_NAMES, decoder_layers=1, num_queries=40)


@pytest.fixture(scope="module")
def data(tmp_path_factory, model) -> Path:
    """A COCO folder, in which some of what the model finds is made true, so that its metrics are above zero."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "annotations").mkdir()
    (folder / "val").mkdir()
    random = np.random.default_rng(0)
    images, annotations = [], []
    detector = DeformableDetrRefineForObjectDetection.from_pretrained(model).eval()
    processor = DeformableDetrRefineImageProcessor.from_pretrained(model)
    for number, (width, height) in enumerate([(120, 90), (90, 120), (120, 90), (100, 100)]):
        noise = Image.fromarray(random.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
        path = folder / "val" / f"{number}.jpg"
        noise.resize((width, height)).save(path)
        images.append({"id": 1000 - number, "file_name": path.name, "width": width, "height": height})
        with torch.inference_mode():
            outputs = detector(**processor(images=load_image(path), return_tensors="pt"))
        (found,) = processor.post_process_object_detection(outputs, 0.0, [(height, width)])
        for label in (0, 2) if number < 3 else ():
            boxes = [
                box
                for box in found["boxes"][found["labels"] == label].tolist()
                if box[2] - box[0] > 4 < box[3] - box[1]
            ]
            for x0, y0, x1, y1 in boxes[1:4]:
                bbox = [round(value, 2) for value in (x0, y0, x1 - x0 - 1, y1 - y0 - 1)]
                item = {"id": len(annotations) + 1, "image_id": 1000 - number, "bbox": bbox, "area": bbox[2] * bbox[3]}
                annotations.append({**item, "category_id": 7 if label == 0 else 3, "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder


def test_the_files_are_what_help_says(model, data, tmp_path, capsys):
    output = tmp_path / "new" / "out"
    assert main(["evaluate", str(model), str(data), "--output", str(output), "--threshold", "0.4"]) == 0
    assert sorted(file.name for file in output.iterdir()) == [
        "detections.json",
        "metrics.json",
        "per_class.csv",
        "report.html",
    ]
    metrics = json.loads((output / "metrics.json").read_text())
    assert list(metrics) == [*TWELVE, "per_class", "azure", "about"]
    assert list(metrics["per_class"]) == MODEL_NAMES
    assert 0 < metrics["AP"] <= metrics["AP50"] <= 1
    assert metrics["per_class"]["kiwi"]["AP"] == -1
    about = metrics["about"]
    assert (about["split"], about["images"], about["threshold"], about["dtype"]) == ("validation", 4, 0.4, "float32")
    assert about["left_out"] == {"images": 0, "objects": 0}

    with (output / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == MODEL_NAMES
    assert [row["category_id"] for row in rows] == ["7", "", "3"]
    assert float(rows[0]["AP"]) == pytest.approx(metrics["per_class"]["pear"]["AP"], abs=1e-6)
    assert rows[1]["AP"] == rows[1]["recall"] == ""

    printed = capsys.readouterr().out
    assert f"4 images, {about['objects']} objects" in printed
    assert f"{metrics['AP']:.3f}" in printed and "precision>0.4" in printed and "report.html" in printed


@pytest.mark.parametrize("ids", ["numbers", "texts", "none"])
def test_cocoeval_gives_the_same_from_the_files(ids, model, data, tmp_path, tmp_path_factory, report):
    """The written detections and the data set's own file, or its conversion, through pycocotools alone."""
    truth = data / "annotations" / "instances_val.json"
    if ids == "none":
        yolo, converted = (tmp_path_factory.mktemp(form) / "data" for form in ("yolo", "coco"))
        assert main(["data", "convert", str(data), str(yolo), "--to", "yolo"]) == 0
        assert main(["data", "convert", str(yolo), str(converted), "--to", "coco"]) == 0
        data, truth = yolo, converted / "annotations" / "instances_validation.json"
    if ids == "texts":
        data = shutil.copytree(data, tmp_path_factory.mktemp("texts") / "data")
        truth = data / "annotations" / "instances_val.json"
        content = json.loads(truth.read_text())
        for item in [*content["images"], *content["categories"]]:
            item["id"] = f"№ {item['id']}"
        for item in content["annotations"]:
            item |= {key: f"№ {item[key]}" for key in ("image_id", "category_id")}
        truth.write_text(json.dumps(content))
    main(["evaluate", str(model), str(data), "--output", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        objects = coco.COCO(str(truth))
        evaluation = cocoeval.COCOeval(objects, objects.loadRes(str(tmp_path / "detections.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert [metrics[key] for key in TWELVE] == pytest.approx(evaluation.stats.tolist(), abs=1e-9)
    results = json.loads((tmp_path / "detections.json").read_text(encoding="utf-8"))
    expected = {"numbers": {3, 7}, "texts": {"№ 3", "№ 7"}, "none": {1, 2}}
    assert {result["category_id"] for result in results} == expected[ids]
    if ids == "texts":
        assert {result["image_id"] for result in results} <= {item["id"] for item in content["images"]}
        return
    assert [result["image_id"] for result in results] == sorted(result["image_id"] for result in results)


def test_json_limit_batches_and_types(model, data, tmp_path, capsys, report):
    found = {}
    for options in (["--batch-size", "1"], ["--batch-size", "3"], ["--dtype", "bfloat16"], ["--limit", "2"]):
        assert main(["evaluate", str(model), str(data), "--output", str(tmp_path), "--json", *options]) == 0
        printed = capsys.readouterr().out
        assert printed == (tmp_path / "metrics.json").read_text()
        found[options[1]] = json.loads(printed)
    assert found["1"]["AP"] == pytest.approx(found["3"]["AP"], abs=1e-3)
    assert found["bfloat16"]["AP50"] == pytest.approx(found["1"]["AP50"], abs=0.2)
    assert found["2"]["about"]["images"] == 2


def test_azures_config_chooses_metrics_and_thresholds(model, data, tmp_path, report):
    config = tmp_path / "config.json"
    config.write_text('{"metrics": ["recall", "precision"], "box_score_threshold": 0.2}')
    out = tmp_path / "out"
    arguments = ["evaluate", str(model), str(data), "--output", str(out), "--azure-config", str(config)]
    for extra, threshold in (([], 0.2), (["--threshold", "0.6"], 0.6)):
        main([*arguments, *extra])
        metrics = json.loads((out / "metrics.json").read_text())
        assert (list(metrics["azure"]), metrics["about"]["threshold"]) == (["recall", "precision"], threshold)


def test_the_detectors_own_threshold_is_told_where_it_is_another(model, data, tmp_path, report, capsys):
    own = tmp_path / "own"
    shutil.copytree(model, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "score_threshold": 0.51}))
    arguments = ["evaluate", str(own), str(data), "--output", str(tmp_path / "out"), "--limit", "1", "--threshold"]
    for threshold, told in (("0.51", False), ("0.4", True)):
        assert main([*arguments, threshold]) == 0
        assert ("begins with the threshold in the detector's config, 0.51" in capsys.readouterr().out) == told


def test_classes_that_the_model_does_not_know(model, data, tmp_path, capsys, report):
    folder = tmp_path / "other"
    shutil.copytree(data, folder)
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    arguments = ["evaluate", str(model), str(folder), "--output", str(tmp_path / "out")]

    content["categories"][0]["name"] = "Apple"
    apples = sum(annotation["category_id"] == 3 for annotation in content["annotations"])
    file.write_text(json.dumps(content))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"does not know: Apple ({apples})." in error and "Only the model knows: apple, kiwi." in error
    assert not (tmp_path / "out" / "metrics.json").exists()

    assert main([*arguments, "--defects", "skip"]) == 0
    assert f"left out: 0 images, {apples} objects" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["about"]["left_out"] == {"images": 0, "objects": apples}
    assert metrics["per_class"]["apple"]["objects"] == 0 < metrics["per_class"]["pear"]["objects"]

    content["categories"][1]["name"] = "Pear"
    file.write_text(json.dumps(content))
    assert main([*arguments, "--defects", "skip"]) == 2
    assert "does not know: Apple" in capsys.readouterr().err


def test_a_defective_box_is_an_error_or_left_out(model, data, tmp_path, capsys, report):
    folder = tmp_path / "defective"
    shutil.copytree(data, folder)
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    arguments = ["evaluate", str(model), str(folder), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "leave them out with --defects skip" in capsys.readouterr().err
    assert main([*arguments, "--defects", "skip"]) == 0
    assert "left out: 0 images, 1 object\n" in capsys.readouterr().out
    # Now the last box, of the third image; with a limit only images that were tried count.
    content["annotations"][0]["bbox"][2] = content["annotations"][0]["bbox"][3]
    content["annotations"][-1]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    assert content["annotations"][-1]["image_id"] == 998
    assert main([*arguments, "--defects", "skip", "--limit", "2"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_an_image_that_breaks_off_is_an_error_or_left_out(model, data, tmp_path, capsys, report):
    folder = tmp_path / "broken"
    shutil.copytree(data, folder)
    picture = folder / "val" / "0.jpg"
    picture.write_bytes(picture.read_bytes()[:-400])
    arguments = ["evaluate", str(model), str(folder), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "0.jpg" in error and error.endswith("; --defects skip leaves such images out.")
    assert main([*arguments, "--defects", "skip"]) == 0
    printed = capsys.readouterr()
    assert "0.jpg" in printed.err
    assert "3 images" in printed.out and "left out: 1 image, 0 objects" in printed.out


def test_errors_come_before_the_work(model, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "deformable_detr_refine.evaluation.predict.predict", lambda *a, **k: pytest.fail("it began to work")
    )
    out = ["--output", str(tmp_path / "out")]
    cases = [
        (["evaluate", str(model), str(tmp_path / "none"), *out], "no data set"),
        (["evaluate", str(tmp_path / "none"), str(data), *out], "no model folder"),
        (["evaluate", str(tmp_path / "none"), str(tmp_path), *out], "no model folder"),  # before the data are read
        (["evaluate", str(model), str(data), "--split", "test", *out], "only validation: --split validation takes all"),
        (
            ["evaluate", str(model), str(data), "--dtype", "float16", "--device", "cpu", *out],
            "float16 is for accelerators",
        ),
        (["evaluate", str(model), str(data), "--azure-config", str(tmp_path / "none.json"), *out], "none.json"),
    ]
    for arguments, message in cases:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("ddetr evaluate: error: ") and message in error and error.count("\n") == 1
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    assert main(["evaluate", str(model), str(data), *out]) == 2
    assert "holds other things than earlier results (report.html/)" in capsys.readouterr().err
    monkeypatch.setattr("ddetr.evaluate.find_spec", lambda name: None)
    assert main(["evaluate", str(model), str(data), *out]) == 2
    assert 'pip install "deformable-detr-refine[train]"' in capsys.readouterr().err


def test_the_report_gets_training_curves_and_pictures(model, data, tmp_path, report):
    trained = tmp_path / "trained"
    shutil.copytree(model, trained)
    history = [{"loss": 1.5, "step": 1, "epoch": 0.5}]
    (trained / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    damaged = tmp_path / "damaged"
    shutil.copytree(trained, damaged)
    (damaged / "trainer_state.json").write_text("{")
    for folder, expected in ((trained, history), (damaged, []), (model, [])):
        main(["evaluate", str(folder), str(data), "--output", str(tmp_path / "out"), "--limit", "2"])
        assert report["history"] == expected
    assert report["title"] == f"detector on {data.name}, validation"
    assert report["image_of"](one_image(image_id=999)).size == (90, 120)
