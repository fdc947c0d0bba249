"""Images that cannot be used are found before the first step, and are an error or left out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.training_runs import SIZE, TRAIN_BOXES

from ddetr.main import main as ddetr
from deformable_detr_refine import DeformableDetrRefineImageProcessor
from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.inspection.damaged_images import damaged_images
from deformable_detr_refine.training.arguments import DataArguments
from deformable_detr_refine.training.run_data import read_run_data, usable_images


class OneProcess:
    process_index, world_size = 0, 1


@pytest.fixture
def damaged(boxes_data, tmp_path) -> Path:
    """One training image is cut short, one training image and one validation image are of another size than stated."""
    folder = tmp_path / "damaged"
    shutil.copytree(boxes_data, folder)
    cut = folder / "train" / "3.png"
    cut.write_bytes(cut.read_bytes()[:2000])
    for file in ("train/5.png", "valid/2.png"):
        Image.new("RGB", (SIZE, SIZE // 2)).save(folder / file)
    return folder


def test_a_run_stops_before_its_first_step_and_names_the_files(damaged, settings_file, tmp_path, capsys):
    assert ddetr(["train", str(settings_file(tmp_path / "out", data=str(damaged)))]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "3 images would be lost" in error and "--defects skip" in error
    assert all(str(Path("train", name)) in error for name in ("3.png", "5.png")) and "2.png" in error
    assert not (tmp_path / "out").exists()


def test_skip_leaves_them_out_and_says_how_many(damaged):
    said: list[str] = []
    args = DataArguments(data=str(damaged), defects="skip")
    found = usable_images(
        read_run_data(args, said.append), DeformableDetrRefineImageProcessor(), args, OneProcess, said.append
    )
    assert [name for name in found.train["file_name"]] == [
        f"{n}.png" for n in range(1, len(TRAIN_BOXES) + 1) if n not in (3, 5)
    ]
    assert found.validation["file_name"][:] == ["1.png", "3.png", "4.png", "5.png"]
    text = "\n".join(said)
    assert "15 decoded" in text and "unreadable image 1" in text and "other size than stated 2" in text


def test_each_process_decodes_its_share(damaged):
    rows = load_detection_data(damaged)["train"]
    shares = [damaged_images(rows, range(rank, len(rows), 3), "train", str(damaged)) for rank in range(3)]
    assert {index for share in shares for index in share} == {2, 4}
    assert sum(len(share) for share in shares) == 2
    assert all(defect.loses == "image" for share in shares for defect in share.values())


def test_the_check_can_be_turned_off(damaged):
    args = DataArguments(data=str(damaged), check_images=False)
    read = read_run_data(args, print)
    found = usable_images(read, DeformableDetrRefineImageProcessor(), args, OneProcess, print)
    assert len(found.train) == len(TRAIN_BOXES)


def test_an_image_too_thin_to_be_resized_is_found_without_decoding(boxes_data, tmp_path):
    folder = tmp_path / "thin"
    shutil.copytree(boxes_data, folder)
    Image.fromarray(np.zeros((1, 9000, 3), np.uint8)).save(folder / "valid" / "3.png")
    annotations = folder / "valid" / "_annotations.coco.json"
    text = annotations.read_text()
    old = f'"file_name": "3.png", "width": {SIZE}, "height": {SIZE}'
    assert old in text
    annotations.write_text(text.replace(old, '"file_name": "3.png", "width": 9000, "height": 1'))
    args = DataArguments(data=str(folder), check_images=False)
    with pytest.raises(ValueError, match=r"(?s)too thin 1.*3\.png"):
        usable_images(read_run_data(args, print), DeformableDetrRefineImageProcessor(), args, OneProcess, print)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda item: None, "train holds no box: there is nothing to learn in 10 images"),
        (lambda item: {**item, "iscrowd": 1}, r"train holds only crowds \(17\), which are not trained on"),
    ],
)
def test_data_without_an_object_are_refused_before_the_first_step(change, said, boxes_data, tmp_path):
    folder = tmp_path / "empty"
    shutil.copytree(boxes_data, folder)
    file = folder / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"] = [changed for item in content["annotations"] if (changed := change(item))]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=said):
        read_run_data(DataArguments(data=str(folder)), print)


def test_boxes_of_another_form_are_told(boxes_data, tmp_path):
    folder = tmp_path / "corners"
    shutil.copytree(boxes_data, folder)
    for file in folder.glob("*/*.json"):
        content = json.loads(file.read_text())
        for item in content["annotations"]:
            x, y, width, height = item["bbox"]
            item["bbox"] = [x, y, x + width, y + height]
        file.write_text(json.dumps(content))
    said: list[str] = []
    found = read_run_data(DataArguments(data=str(folder)), said.append)
    assert found.train["objects"][:] == load_detection_data(boxes_data)["train"]["objects"][:]
    assert len(said) == 2 and all("the boxes are taken for corners" in text for text in said)


def test_what_is_left_out_of_the_validation_data_is_told(boxes_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(boxes_data / "valid", other)
    annotations = other / "_annotations.coco.json"
    annotations.write_text(annotations.read_text().replace('"category_id": 1', '"category_id": 77', 1))
    said: list[str] = []
    read_run_data(DataArguments(data=str(boxes_data), validation_data=str(other), defects="skip"), said.append)
    assert said == ["Left out or clipped of the validation data: unknown label 1."]


def test_images_that_train_and_are_evaluated_on_are_told(boxes_data):
    said: list[str] = []
    own, other = str(boxes_data / "train"), str(boxes_data / "valid")
    for validation in (other, own):
        read_run_data(DataArguments(data=own, validation_data=validation), said.append)
    assert said == ["Warning: 10 images to train on will be evaluated on too, where the AP means little."]
