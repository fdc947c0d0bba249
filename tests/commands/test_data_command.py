"""`ddetr data`: what it prints, writes and returns."""

import json
from pathlib import Path

import pytest
from PIL import Image
from support.http_server import serving
from support.published_sets import bccd_files, fridge_files, zipped

from ddetr.data import FORMATS, NAMED
from ddetr.main import main
from deformable_detr_refine.data.download.named_sets import NAMED_SETS
from deformable_detr_refine.data.formats.load import load_detection_data


@pytest.fixture(scope="module")
def fridge(tmp_path_factory) -> Path:
    """The published fridge set's folder, of 5 images; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("data") / "fridge"
    with serving({"/a.zip": zipped(fridge_files())}) as address:
        assert main(["data", "fridge", "--output", str(folder), "--url", f"{address}/a.zip"]) == 0
    return folder


def test_the_command_names_the_sets_there_are():
    assert set(NAMED) == set(NAMED_SETS)


@pytest.mark.parametrize("name", NAMED)
def test_help_tells_how_to_name_another_address(name, capsys):
    with pytest.raises(SystemExit):
        main(["data", name, "--help"])
    assert NAMED_SETS[name].variable in capsys.readouterr().out


def test_a_set_is_downloaded_to_its_place_and_can_be_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with serving({"/master.zip": zipped(bccd_files())}) as address:
        monkeypatch.setenv("DDETR_BCCD_URL", f"{address}/master.zip")
        assert main(["data", "bccd"]) == 0
    printed = capsys.readouterr().out
    assert f"{address}/master.zip -> datasets/bccd: 3 images, 2 in train, 1 in val\n" in printed
    data = load_detection_data("datasets/bccd")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "validation": 1}
    assert data.label_map.names == ("Platelets", "RBC", "WBC")


def test_the_fridge_set_can_be_loaded_with_its_split(fridge):
    data = load_detection_data(fridge)
    assert data["validation"]["file_name"][:] == ["10.jpg"]
    assert data["train"]["file_name"][:] == ["11.jpg", "12.jpg", "13.jpg", "14.jpg"]


@pytest.mark.parametrize("arguments", [["fridge"], ["fridge", "--url"]])
def test_a_download_that_fails_is_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with serving({}) as address:
        monkeypatch.setenv("DDETR_FRIDGE_URL", f"{address}/none.zip")
        assert main(["data", *arguments, *([f"{address}/none.zip"] if len(arguments) > 1 else [])]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"ddetr data: error: {address}/none.zip cannot be read: the server answers 404")
    assert "--url" in error and list(tmp_path.iterdir()) == []


def test_inspect_prints_a_report_and_writes_a_picture(fridge, tmp_path, capsys):
    assert main(["data", "inspect", str(fridge), "--output", str(tmp_path / "looked")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{fridge} (voc): 5 images, ") and "No defects." in printed
    assert sorted(file.name for file in (tmp_path / "looked").iterdir()) == ["contact_sheet.jpg", "inspection.json"]
    assert Image.open(tmp_path / "looked" / "contact_sheet.jpg").width > 1000
    assert json.loads((tmp_path / "looked" / "inspection.json").read_text())["sound"] is True


def test_inspect_json_is_nothing_but_json(fridge, capsys):
    assert main(["data", "inspect", str(fridge), "--split", "val", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["splits"]["validation"]["images"] == 1 and len(told["splits"]) == 1


def test_inspect_returns_1_when_something_would_be_lost(tmp_path, capsys):
    files = fridge_files()
    name = "odFridgeObjects/annotations/10.xml"
    for edge, status in (("<xmax>600</xmax>", 0), ("<xmax>86</xmax>", 1)):
        folder = tmp_path / str(status)
        (tmp_path / "a.zip").write_bytes(zipped(files | {name: files[name].replace("<xmax>216</xmax>", edge)}))
        assert main(["data", "fridge", "--output", str(folder), "--url", str(tmp_path / "a.zip")]) == 0
        assert main(["data", "inspect", str(folder)]) == status
        assert f"{folder}/annotations/10.xml:4: the box of carton " in capsys.readouterr().out


def test_errors_are_one_line_with_exit_status_2(tmp_path, fridge, samples, capsys):
    (tmp_path / "empty").mkdir()
    one = samples.parent / "annotations" / "fridge.json"
    for arguments, message in [
        (["inspect", str(tmp_path / "none")], "none"),
        (["inspect", str(tmp_path / "empty")], "is no data set of a known form"),
        (["inspect", str(fridge), "--split", "night"], "has no split 'night', but train, validation."),
        (["inspect", str(one), "--split", "night"], "has no split 'night'; it has only train: --split train takes all"),
        (["fridge", "--output", str(fridge)], "exists already"),
        (["fridge", "--output", str(tmp_path / "new"), "--url", str(tmp_path / "no.zip")], "There is no file"),
    ]:
        assert main(["data", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert captured.err.startswith("ddetr data: error: ") and message in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_set_says_the_same_in_every_format(form, fridge, tmp_path, capsys):
    assert main(["data", "convert", str(fridge), str(tmp_path / form), "--to", form]) == 0
    printed = capsys.readouterr().out
    assert f"{fridge} (voc) -> {tmp_path / form} ({form}): 5 images, 4 in train, 1 in validation\n" in printed
    told = []
    for folder in (fridge, tmp_path / form):
        assert main(["data", "inspect", str(folder), "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert [each.pop("format") for each in told] == ["voc", form]
    assert told[0].pop("source") != told[1].pop("source")
    assert told[0] == told[1]


def test_defects_are_not_converted_unless_allowed(tmp_path, capsys):
    files = fridge_files()
    name = "odFridgeObjects/annotations/10.xml"
    (tmp_path / "a.zip").write_bytes(zipped(files | {name: files[name].replace("<xmax>216</xmax>", "<xmax>86</xmax>")}))
    main(["data", "fridge", "--output", str(tmp_path / "fridge"), "--url", str(tmp_path / "a.zip")])
    convert = ["data", "convert", str(tmp_path / "fridge"), str(tmp_path / "coco"), "--to", "coco"]
    capsys.readouterr()
    assert main(convert) == 2
    error = capsys.readouterr().err
    assert "1 object would be lost (no area 1)" in error and "annotations/10.xml:4" in error and error.count("\n") == 1
    assert not (tmp_path / "coco").exists()
    assert main([*convert, "--defects", "skip"]) == 0
    assert "Left out or clipped: no area 1" in capsys.readouterr().out
    before = len(load_detection_data(tmp_path / "fridge", defects="skip")["validation"][0]["objects"]["id"])
    assert len(load_detection_data(tmp_path / "coco")["validation"][0]["objects"]["id"]) == before == 1
    assert main(convert) == 2
