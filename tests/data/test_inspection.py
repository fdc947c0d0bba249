"""An inspection counts what is there, and tells every planted defect with its file and line."""

import io
import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.published_sets import SAMPLES, fridge_files
from torchvision.ops import box_iou

from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.inspection.contact_sheet import CAPTION, LETTERS, MARGIN, TILE, contact_sheet
from deformable_detr_refine.data.inspection.inspection import inspect
from deformable_detr_refine.data.inspection.split_summary import (
    MOST_NEIGHBOURS,
    SAME_OBJECT_IOU,
    SIDES,
    SIZES,
    _boxed_twice,
    summarize,
)
from deformable_detr_refine.inference.drawing import draw_boxes

IMAGES = ("10", "11", "12", "13", "14")


@pytest.fixture
def folder(tmp_path) -> Path:
    """The sample groceries as Pascal VOC: 10 to 12 train, 13 and 14 validate."""
    folder = tmp_path / "fridge"
    for name, content in fridge_files().items():
        file = folder / name.removeprefix("odFridgeObjects/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    write_list(folder, "train", IMAGES[:3])
    write_list(folder, "val", IMAGES[3:])
    return folder


def write_list(folder: Path, split: str, stems) -> None:
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def inspected(folder: Path, **options):
    return inspect(load_detection_data(folder, defects="skip", **options))


def found(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Kind -> (where below the folder, what it loses) of every defect."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for defect in inspected(folder).defects:
        where = Path(defect.where).relative_to(folder)
        kinds.setdefault(defect.kind, []).append((str(where), defect.loses))
    return kinds


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


def test_a_clean_set_has_no_defects(folder):
    inspection = inspected(folder)
    assert inspection.defects == () and inspection.sound
    assert inspection.lost == {"objects": 0, "images": 0}
    assert str(inspection).endswith("No defects.")


@pytest.mark.parametrize("name", ["fridge", "blood_cells"])
def test_counts_are_those_of_the_annotations(name, tmp_path):
    coco = json.loads((SAMPLES / "annotations" / f"{name}.json").read_text())
    shutil.copytree(SAMPLES / "images", tmp_path / "images")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(coco))
    (summary,) = inspected(tmp_path).splits.values()

    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    items = coco["annotations"]
    counts = Counter(item["image_id"] for item in items)
    per_image = [counts[image] for image in sizes]
    assert (summary.images, summary.boxes, summary.crowds) == (len(sizes), len(items), 0)
    assert summary.boxes_an_image == (min(per_image), np.median(per_image), max(per_image))
    assert summary.boxes_by_class == {
        label: [names[i["category_id"]] for i in items].count(label) for label in names.values()
    }
    assert summary.images_by_class == {
        label: len({item["image_id"] for item in items if names[item["category_id"]] == label})
        for label in names.values()
    }
    assert summary.image_sizes == dict(Counter(f"{width}x{height}" for width, height in sizes.values()))
    for size, (low, high) in SIZES.items():
        assert summary.box_sizes[size] == sum(low <= item["area"] < high for item in items)
    sides = [np.sqrt(np.prod(item["bbox"][2:]) / np.prod(sizes[item["image_id"]])) for item in items]
    assert list(summary.box_sides.values()) == [
        sum(low <= side < high for side in sides) for low, high in pairwise(SIDES)
    ]
    assert len(summary.box_sides) == len(SIDES) - 1


def test_a_part_of_a_split_is_counted_as_such(folder):
    data = load_detection_data(folder)
    names, train = data.label_map.names, data["train"]
    every = [summarize(train.select([index]), names) for index in range(3)]
    for part in (slice(0, 1), slice(1, 3), slice(2, 3), slice(0, 0)):
        summary = summarize(train.select(range(3)[part]), names)
        assert summary.boxes == sum(each.boxes for each in every[part])
        for label in names:
            assert summary.boxes_by_class[label] == sum(each.boxes_by_class[label] for each in every[part])


def test_boxes_with_a_fault_are_told_with_their_line(folder):
    voc = folder / "annotations" / "10.xml"
    first = line_of(voc, "<object>")
    for old, new, kind, loses in [
        ("<xmax>216</xmax>", "<xmax>86</xmax>", "no area", "object"),
        ("<xmax>216</xmax>", "<xmax>40</xmax>", "swapped corners", "object"),
        (
            "<xmin>86</xmin>\n   <ymin>102</ymin>\n   <xmax>216</xmax>",
            "<xmin>600</xmin><ymin>102</ymin>\n\n<xmax>700</xmax>",
            "outside the image",
            "object",
        ),
        ("<xmax>216</xmax>", "<xmax>520</xmax>", "partly outside", ""),
    ]:
        kept = voc.read_text()
        edit(voc, old, new)
        assert found(folder) == {kind: [(f"annotations/10.xml:{first}", loses)]}
        inspection = inspected(folder)
        assert inspection.sound == (not loses)
        assert inspection.lost["objects"] == bool(loses)
        voc.write_text(kept)


def test_unknown_labels_and_absent_images_are_told(folder):
    (folder / "labels.txt").write_text("can\ncarton\nwater_bottle\n")
    (folder / "images" / "14.jpg").unlink()
    kinds = found(folder)
    assert set(kinds) == {"unknown label", "absent image"}
    assert kinds["absent image"] == [("annotations/14.xml:1", "image")]
    milk = [
        (f"annotations/{stem}.xml", text)
        for stem in IMAGES[:4]
        if "milk" in (text := (folder / "annotations" / f"{stem}.xml").read_text())
    ]
    assert sorted({where.split(":")[0] for where, _ in kinds["unknown label"]}) == [file for file, _ in milk]
    assert len(kinds["unknown label"]) == sum(text.count("milk_bottle") for _, text in milk)


@pytest.mark.parametrize("damage", ["cut short", "noise", "empty", "web page"])
def test_damaged_images_are_told(damage, folder):
    file = folder / "images" / "12.jpg"
    content = file.read_bytes()
    broken = {
        "cut short": content[: len(content) // 2],
        "noise": content[:200] + bytes(range(256)) * 20,
        "empty": b"",
        "web page": b"<!doctype html>",
    }
    file.write_bytes(broken[damage])
    assert found(folder) == {"unreadable image": [("images/12.jpg", "image")]}
    inspection = inspected(folder)
    assert not inspection.sound and inspection.lost == {"objects": 0, "images": 1}


def test_another_size_than_stated_is_told(folder):
    edit(
        folder / "annotations" / "11.xml",
        "<width>499</width><height>666</height>",
        "<width>998</width><height>1332</height>",
    )
    (defect,) = inspected(folder).defects
    assert (defect.kind, defect.loses) == ("other size than stated", "")
    assert "states 998x1332, the upright image is 499x666" in defect.text
    assert not inspected(folder).sound


def test_a_turned_photo_whose_boxes_count_the_stored_pixels_is_told(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(folder / "images" / "11.jpg") as image:
        image.save(folder / "images" / "11.jpg", exif=exif)
    assert list(found(folder)) == ["other size than stated"]


@pytest.mark.parametrize("resaved", [False, True])
@pytest.mark.parametrize(
    ("like", "kind", "sound"), [("10", "same image twice", True), ("13", "same image in two splits", False)]
)
def test_the_same_image_twice_is_told(resaved, like, kind, sound, folder):
    source = folder / "images" / f"{like}.jpg"
    if resaved:
        (folder / "images" / "12.jpg").unlink()
        with Image.open(source) as image:
            image.save(folder / "images" / "12.png")
        edit(folder / "annotations" / "12.xml", "12.jpg", "12.png")
    else:
        shutil.copy(source, folder / "images" / "12.jpg")
    later = "images/13.jpg" if like == "13" else f"images/12.{'png' if resaved else 'jpg'}"
    assert found(folder) == {kind: [(later, "")]}
    assert inspected(folder).sound is sound


def test_images_that_no_annotation_names_are_told_for_the_whole_set_only(folder):
    for name in ("extra.jpg", "9.PNG", ".hidden.jpg", "notes.txt"):
        (folder / "images" / name).write_bytes(b"")
    write_list(folder, "train", IMAGES[:2])
    assert found(folder) == {"image not listed": [(f"images/{name}", "") for name in ("9.PNG", "12.jpg", "extra.jpg")]}
    assert inspected(folder).sound
    assert inspect(load_detection_data(folder, split="train", defects="skip"), whole=False).defects == ()


def test_a_defective_image_is_not_also_called_unlisted(folder):
    (folder / "annotations" / "12.xml").write_text("<annotation><filename>12.jpg</filename><object>")
    kinds = found(folder)
    assert list(kinds) == ["unreadable annotation"]


def test_notes_tell_what_is_odd_without_being_wrong(folder):
    for stem in IMAGES[3:]:
        voc = folder / "annotations" / f"{stem}.xml"
        voc.write_text(voc.read_text().split("<object>")[0] + "</annotation>")
    voc = folder / "annotations" / "10.xml"
    first = voc.read_text().split("<object>")[1]
    voc.write_text(
        voc.read_text().replace("</annotation>", f"<object>{first.split('</object>')[0]}</object></annotation>")
    )
    inspection = inspected(folder)
    assert inspection.sound and not inspection.defects
    notes = "\n".join(inspection.notes)
    assert "validation: 2 of 2 images have no box." in notes
    assert "train: 1 object seems to be boxed twice" in notes and "the first in 10.jpg" in notes
    assert f"validation: no box of {', '.join(inspection.splits['train'].boxes_by_class)}." in notes
    assert "the most frequent class, has" in notes


def test_images_in_the_data_set_itself_are_checked_too(folder):
    data = load_detection_data(folder)

    def inline(row):
        content = Path(row["image"]["path"]).read_bytes()
        return {"image": {"bytes": content[: 3000 if row["file_name"] == "11.jpg" else None], "path": None}}

    inspection = inspect(type(data)(data.splits.map(inline), data.label_map, "hub", "datasets"))
    assert [(defect.kind, defect.where) for defect in inspection.defects] == [("unreadable image", "train, image 1")]


def test_json_and_text_hold_the_same(folder):
    edit(folder / "annotations" / "10.xml", "<xmax>216</xmax>", "<xmax>86</xmax>")
    (folder / "images" / "extra.jpg").write_bytes(b"")
    inspection = inspected(folder)
    told = json.loads(json.dumps(inspection.to_dict()))
    assert told["lost"] == {"objects": 1, "images": 0} and told["sound"] is False
    assert told["defect_counts"] == {"no area": 1, "image not listed": 1}
    text = str(inspection)
    for defect in told["defects"]:
        assert f"{defect['where']}: {defect['text']}" in text
    assert "2 defects; they would lose 1 object and 0 images" in text
    for name, split in told["splits"].items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        assert line.split()[1:4] == [str(split[key]) for key in ("images", "images_without_boxes", "boxes")]
    assert max(map(len, text.splitlines()[:-6])) < 120


def test_long_lists_of_defects_are_cut_in_the_text_only(folder):
    for number in range(30):
        (folder / "images" / f"extra{number}.jpg").write_bytes(b"")
    inspection = inspected(folder)
    assert str(inspection).count("no annotation names this image") == 8
    assert "... and 22 more" in str(inspection) and len(inspection.to_dict()["defects"]) == 30


def test_the_contact_sheet_shows_images_of_each_split_with_their_boxes(folder):
    data = load_detection_data(folder)
    sheet = contact_sheet(data)
    shown = sheet.height - 2 * MARGIN
    width = TILE * 3 // 4  # of the photos, all upright, and so of a column
    assert sheet.width == 3 * (width + MARGIN) + MARGIN and shown >= 2 * (TILE + CAPTION)
    bare = contact_sheet(
        type(data)(
            data.splits.map(lambda row: {"objects": {k: [] for k in row["objects"]}}, features=data["train"].features),
            data.label_map,
            "",
            "",
        )
    )
    changed = np.argwhere((np.asarray(sheet) != np.asarray(bare)).any(-1))
    row = data["train"][0]
    scale = TILE / row["height"]
    corners = (
        np.array(row["objects"]["bbox"]) @ np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]) * scale
    )
    first = changed[(changed[:, 1] < MARGIN + width) & (changed[:, 0] < MARGIN + CAPTION + TILE)] - [
        MARGIN + CAPTION,
        MARGIN,
    ]
    assert abs(first[:, 1].min() - corners[:, 0].min()) <= 3 and abs(first[:, 1].max() - corners[:, 2].max()) <= 3

    # A notebook's page shows the sheet about 700 pixels wide: its letters have to be 8 pixels high there.
    single = draw_boxes(
        Image.new("RGB", (360, 480)), np.array([[40, 90, 300, 400]]), [0], ["x"], [1.0], letters=LETTERS
    )
    chip = np.argwhere((np.asarray(single)[:88] == (230, 159, 0)).all(-1))
    assert np.ptp(chip[:, 0]) * 700 / (3 * TILE) > 8

    (folder / "images" / "10.jpg").write_bytes(b"")
    buffer = io.BytesIO()
    contact_sheet(data).save(buffer, format="JPEG")
    assert buffer.tell()


def test_objects_that_are_boxed_twice_are_counted_as_by_all_pairs():
    """Jittered boxes of three classes in four images, some of them crowds."""
    random = np.random.default_rng(0)
    corners, sides = random.uniform(0, 12, (400, 2)), random.uniform(18, 22, (400, 2))
    images, labels = np.sort(random.integers(0, 4, 400)), random.integers(0, 3, 400)
    crowd = (random.uniform(size=400) < 0.1).astype(int)
    boxes = torch.from_numpy(np.concatenate([corners, corners + sides], axis=1))
    alike = (box_iou(boxes, boxes) >= SAME_OBJECT_IOU).triu(1).numpy()
    alike &= (labels[:, None] == labels) & (images[:, None] == images) & (crowd[:, None] + crowd == 0)
    expected = Counter(images[alike.nonzero()[0]].tolist())
    assert sum(expected.values()) > 10
    assert _boxed_twice(np.concatenate([corners, sides], axis=1), labels, crowd, images) == dict(expected)


def test_very_many_boxes_in_one_place_are_bounded_work():
    """The pairs of 200,000 boxes would take 640 GB at once."""
    count = 200_000
    nothing = np.zeros(count, int)
    ((image, pairs),) = _boxed_twice(np.tile([5.0, 5.0, 20.0, 20.0], (count, 1)), nothing, nothing, nothing).items()
    assert image == 0 and pairs == sum(count - step for step in range(1, MOST_NEIGHBOURS + 1))
