"""Which files of a folder belong to a data set: hidden ones never do, and none is passed over without a word."""

import os
from collections import Counter
from glob import glob
from pathlib import Path

import pytest
from PIL import Image
from support.data_sets import SPLITS, same_rows, write_coco_set, write_image, write_voc_set

from deformable_detr_refine.data import (
    DataError,
    load_detection_data,
    write_azure,
    write_coco,
    write_datasets,
    write_voc,
    write_yolo,
)
from deformable_detr_refine.data.formats.image_files import fitting, images_below, natural_key
from deformable_detr_refine.data.row_image import row_image

WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "azure": write_azure, "datasets": write_datasets}
HIDDEN = (".DS_Store", "._a.jpg", "._a.xml", "._a.txt", "._a.json", "._a.jsonl", "._data.yaml", "._a.parquet")
NOT_UTF_8 = "caf\udce9.jpg"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_detection_data(write_coco_set(tmp_path_factory.mktemp("coco")))


@pytest.mark.parametrize("form", WRITERS)
def test_hidden_files_are_nobodys(form, data, tmp_path):
    WRITERS[form](data, tmp_path / "set")
    expected = load_detection_data(tmp_path / "set")
    for folder in [tmp_path / "set", *(path for path in (tmp_path / "set").rglob("*") if path.is_dir())]:
        for name in HIDDEN:
            (folder / name).write_bytes(b"\0\5\x16\7 no text, no image")
    found = load_detection_data(tmp_path / "set")
    assert (found.format, found.defects, list(found.splits)) == (form, (), list(SPLITS))
    for split, rows in found.splits.items():
        same_rows(rows, expected[split])


@pytest.mark.parametrize("form", [form for form in WRITERS if form != "datasets"])  # it holds its images itself
def test_names_that_are_no_utf_8(form, data, tmp_path):
    """Read from the disk, written as text, and found again by that."""
    folder = tmp_path / "donn\udce9es"
    WRITERS[form](data, folder)
    old = next(path for path in folder.rglob("a.jpg"))
    old.rename(old.with_name(NOT_UTF_8))
    for file in [path for path in folder.rglob("*") if path.suffix in (".json", ".xml", ".txt", ".jsonl")]:
        if file.name in ("a.xml", "a.txt"):
            file = file.rename(file.with_stem(Path(NOT_UTF_8).stem))
        file.write_bytes(_renamed(file.read_bytes(), form))
    found = load_detection_data(folder)
    assert found.defects == ()
    assert _image_named(found, "caf%E9.jpg").size == (40, 30)
    for writer in WRITERS:
        WRITERS[writer](found, tmp_path / writer)
        assert _image_named(load_detection_data(tmp_path / writer), "caf%E9.jpg").size == (40, 30)


def _image_named(data, name: str) -> Image.Image:
    return row_image(next(row for row in data["train"] if os.path.basename(row["file_name"]) == name))


def _renamed(content: bytes, form: str) -> bytes:
    """The file's content with the image's new name, as a program of Latin 1 writes it; in JSON escaped."""
    if form in ("coco", "azure"):
        return content.replace(b"a.jpg", b"caf\\udce9.jpg")
    return content.replace(b"a.jpg", b"cafe.jpg") if content.startswith(b"<") else content.replace(b"a\n", b"caf\xe9\n")


def test_what_is_no_image_by_its_name_is_counted(tmp_path):
    for name in ("2.JPG", "10.jfif", "1.txt", "b/film.mp4", "b/film2.mp4", "b/README", ".hidden/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    others = Counter()
    assert list(images_below(tmp_path, others)) == ["2.JPG", "10.jfif"]
    assert others == {".txt": 1, ".mp4": 2, "README": 1}


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    write_image(tmp_path / "elsewhere" / "1.jpg", (40, 30))
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "self").symlink_to("self")
    assert list(images_below(tmp_path / "set", Counter())) == ["a/b/1.jpg"]
    assert fitting(f"{tmp_path}/**/1.jpg") == [str(tmp_path / place / "1.jpg") for place in ("elsewhere", "set/a/b")]


def test_a_billion_ways_by_links_are_not_all_gone(tmp_path):
    for depth in range(30):
        (tmp_path / str(depth)).mkdir()
        for name in "ab":
            (tmp_path / str(depth) / name).symlink_to(tmp_path / str(depth + 1))
    for look in (lambda: list(images_below(tmp_path / "0", Counter())), lambda: fitting(f"{tmp_path}/0/**/*.jpg")):
        with pytest.raises(OSError, match="in more than 100 ways"):
            look()


@pytest.mark.parametrize("pattern", ["**/*.jpg", "a/**/*.jpg", "*/**/1.*", "a/**", "**/b/**/*.jpg", "a/*.jpg", "**"])
def test_patterns_fit_what_they_do_in_glob(tmp_path, monkeypatch, pattern):
    for name in ("a/1.jpg", "a/b/1.jpg", "a/b/c/2.jpg", ".hidden/1.jpg", "[x]/1.jpg", "3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    expected = [name for name in glob(pattern, recursive=True) if Path(name).is_file()]
    assert sorted(name for name in fitting(pattern) if Path(name).is_file()) == sorted(expected)


def test_a_pattern_with_a_slash_at_its_end_is_of_folders(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "1.jpg").touch()
    monkeypatch.chdir(tmp_path)
    for pattern in ("**/", "a/**/", "**/b/**/"):
        assert sorted(fitting(pattern)) == sorted(glob(pattern, recursive=True))


def test_digits_that_are_no_numbers_are_letters():
    assert sorted(["²", "10", "9", "a²1"], key=natural_key) == ["9", "10", "a²1", "²"]


def test_a_named_folder_that_cannot_be_listed_is_told_and_one_of_a_pattern_passed_over(tmp_path, monkeypatch):
    def scandir(path, listed=os.scandir):
        if str(path).endswith("b/"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    (tmp_path / "b").mkdir()
    (tmp_path / "1.jpg").touch()
    monkeypatch.setattr(os, "scandir", scandir)
    assert fitting(f"{tmp_path}/**/*.jpg") == [str(tmp_path / "1.jpg")]
    with pytest.raises(OSError, match=r"The folder .*b/ cannot be listed: Permission denied"):
        list(images_below(tmp_path, Counter()))


def test_images_of_every_suffix_are_found(tmp_path):
    """In YOLO's form by listing, in Pascal VOC's by the name of the annotation."""
    suffixes = (".JPG", ".jfif", ".jpe", ".mpo", ".pgm", ".TIF", ".heif")
    write_voc_set(tmp_path / "voc", {f"a{number}": [("can", 1, 2, 11, 22)] for number in range(len(suffixes))})
    for number, suffix in enumerate(suffixes):
        (tmp_path / "voc" / "JPEGImages" / f"a{number}.jpg").rename(
            tmp_path / "voc" / "JPEGImages" / f"a{number}{suffix}"
        )
    found = load_detection_data(tmp_path / "voc")
    assert found["train"]["file_name"][:] == [f"a{number}{suffix}" for number, suffix in enumerate(suffixes)]
    write_yolo(found, tmp_path / "yolo")
    again = load_detection_data(tmp_path / "yolo")
    assert again["train"]["file_name"][:] == found["train"]["file_name"][:]
    (tmp_path / "yolo" / "images" / "train" / "film.mp4").touch()
    (defect,) = load_detection_data(tmp_path / "yolo").defects
    assert (defect.kind, defect.loses) == ("no image by its name", "")
    assert str(defect) == f"{tmp_path}/yolo/images/train: 1 file is no image by its name (.mp4 1)"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_lies_upright_once(orientation, tmp_path):
    write_voc_set(tmp_path, {"a": [("can", 1, 2, 11, 16)]})
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (20, 40) if orientation > 4 else (40, 20)).save(tmp_path / "JPEGImages" / "a.tif", exif=exif)
    (tmp_path / "Annotations" / "a.xml").write_text(
        (tmp_path / "Annotations" / "a.xml").read_text().replace("size", "s")
    )
    row = load_detection_data(tmp_path)["train"][0]
    assert (row["width"], row["height"]) == row_image(row).size == (40, 20)


def test_what_the_hub_library_keeps_is_read(data, tmp_path):
    """A revision of a repository is links to files beside all revisions."""
    revision = tmp_path / "datasets--a--b" / "snapshots" / "0123abc"
    write_yolo(data, revision)
    blobs = tmp_path / "datasets--a--b" / "blobs"
    blobs.mkdir()
    for number, file in enumerate(path for path in sorted(revision.rglob("*")) if path.is_file()):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    assert not load_detection_data(revision).defects


@pytest.mark.parametrize("form", [form for form in WRITERS if form != "datasets"])
def test_a_link_that_leads_out_of_the_set_is_not_followed(form, data, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    WRITERS[form](data, folder)
    image = next(path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".png"))
    private = write_image(tmp_path / "private" / f"secret{image.suffix}", Image.open(image).size)
    image.unlink()
    image.symlink_to(private)
    found = load_detection_data(folder, defects="skip")
    assert sum(map(len, found.splits.values())) == sum(map(len, data.splits.values())) - 1
    assert any("is a link that leads out of the data folder" in defect.text for defect in found.defects)
    monkeypatch.setenv("DDETR_FOLLOW_LINKS", "1")
    assert not load_detection_data(folder).defects


ANNOTATIONS = {
    "coco": ("annotations/instances_train.json", "annotations"),
    "voc": ("Annotations/a.xml", "Annotations", "ImageSets/Main/train.txt", "labels.txt"),
    "yolo": ("labels/train/a.txt", "labels", "data.yaml"),
    "azure": ("train/train.jsonl", "train/MLTable", "train/labels.txt", "train"),
    "datasets": ("dataset_dict.json", "train/state.json", "train", "label_map.json"),
}


@pytest.mark.parametrize(
    ("form", "name"), [(form, name) for form, names in ANNOTATIONS.items() for name in names], ids=str
)
def test_annotations_are_read_by_links_within_the_set_only(form, name, data, tmp_path):
    folder = tmp_path / "set"
    WRITERS[form](data, folder)
    file = folder / name
    file.rename(tmp_path / "private")
    file.symlink_to(tmp_path / "private")
    with pytest.raises(
        DataError, match="is a link that leads out of the data folder; if that is meant, set DDETR_FOLL"
    ):
        load_detection_data(folder)
    (folder / ".kept").mkdir()
    (tmp_path / "private").rename(folder / ".kept" / "file")
    for target in (folder / ".kept" / "file", Path(os.path.relpath(folder / ".kept" / "file", file.parent))):
        file.unlink()
        file.symlink_to(target)
        assert not load_detection_data(folder).defects


def test_only_what_is_named_may_be_a_link(data, tmp_path):
    write_coco(data, tmp_path / "private")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "inner").symlink_to(tmp_path / "private")
    with pytest.raises(DataError, match="set/inner is a link that leads out of the data folder"):
        load_detection_data(tmp_path / "set")
    assert not load_detection_data(tmp_path / "set" / "inner").defects


def test_a_private_text_is_not_repeated_in_a_message(data, tmp_path):
    write_yolo(data, tmp_path / "set")
    config, listed, private = tmp_path / "set" / "data.yaml", tmp_path / "set" / "train.txt", tmp_path / "private"
    private.write_text("a: b: a password")
    config.write_text(config.read_text().replace("images/train", "train.txt"))
    listed.symlink_to(private)
    with pytest.raises(DataError, match=r"train\.txt is a link that leads out") as of_a_list:
        load_detection_data(tmp_path / "set")
    config.unlink()
    config.symlink_to(private)
    with pytest.raises(DataError, match=r"data\.yaml is a link that leads out") as of_the_classes:
        load_detection_data(tmp_path / "set")
    assert "password" not in f"{of_a_list.value} {of_the_classes.value}"
