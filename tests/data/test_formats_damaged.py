"""Whatever is damaged in the files of a data set: either it loads, or one sentence says what is wrong."""

import random
from pathlib import Path

import pytest
from support.data_sets import write_coco_set

from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.formats.azure_jsonl import write_azure
from deformable_detr_refine.data.formats.coco import write_coco
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.formats.voc import write_voc
from deformable_detr_refine.data.formats.yolo import write_yolo

WRITERS = {"coco": write_coco, "voc": write_voc, "azure": write_azure, "yolo": write_yolo}
TEXTS = (".json", ".jsonl", ".xml", ".txt", ".yaml", "MLTable")
PIECES = b'|"|{|}|[|]|<|>|-|1e999|null|\0|\xff|../|\n|nan|&a;|: '.split(b"|")


@pytest.mark.parametrize("rounds", [12, pytest.param(80, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", WRITERS)
def test_damaged_files(form, rounds, tmp_path):
    data = load_detection_data(write_coco_set(tmp_path / "whole"))
    WRITERS[form](data, tmp_path / "set")
    files = sorted(path for path in (tmp_path / "set").rglob("*") if path.name.endswith(TEXTS))
    whole = {path: path.read_bytes() for path in files}
    chance = random.Random(form)
    for _ in range(rounds):
        path = chance.choice(files)
        path.write_bytes(_damaged(whole[path], chance))
        try:
            loaded = load_detection_data(tmp_path / "set", defects="skip")
        except DataError as error:
            assert str(error) and "\0" not in str(error)
        else:
            _check(loaded, tmp_path / "set")
        path.write_bytes(whole[path])


def _damaged(content: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 3, 10))):
        start = chance.randrange(len(content) + 1)
        end = start + chance.choice((0, 0, 1, 1, 2, 5, 30))
        content = content[:start] + chance.choice(PIECES) + content[end:]
    return content


def _check(data, folder: Path) -> None:
    """What is loaded holds what the canonical form promises."""
    for rows in data.splits.values():
        assert len(set(rows["image_id"][:])) == len(rows)
        for row in rows:
            assert Path(row["image"]["path"]).is_relative_to(folder)
            for x, y, width, height in row["objects"]["bbox"]:
                assert width > 0 and height > 0
                assert x > -1 and y > -1 and x + width < row["width"] + 1 and y + height < row["height"] + 1
            assert all(0 <= label < len(data.label_map) for label in row["objects"]["category"])
