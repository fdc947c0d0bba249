"""Which images and which detector the words of a command line mean, and what pictures of them are called."""

import re
from pathlib import Path

import pytest

from ddetr.default_model import model_and_images
from ddetr.images import find_images, picture_names


def test_images_are_found_in_the_order_people_count(tmp_path):
    for name in ["b10.jpg", "b2.JPG", "a.png", ".hidden.jpg", "notes.txt", "sub/c.webp", "odd[1].jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = lambda *sources: [Path(path).name for path in find_images([str(tmp_path / s) for s in sources])]  # noqa: E731
    assert names(".") == ["a.png", "b2.JPG", "b10.jpg", "odd[1].jpg"]
    assert names("b*") == ["b2.JPG", "b10.jpg"]
    assert names("**/*") == ["a.png", "b2.JPG", "b10.jpg", "odd[1].jpg", "c.webp"]
    assert names("odd[1].jpg", "notes.txt", "a.png", "a.png") == ["odd[1].jpg", "notes.txt", "a.png", "a.png"]
    assert find_images(["HTTP://example.org/*.jpg"]) == ["HTTP://example.org/*.jpg"]


def test_picture_names_differ_and_are_safe():
    images = [
        "x/a.jpg",
        "y/a.png",
        "A.jpg",
        "a_2.jpg",
        "https://example.org/",
        "https://example.org/..%2F..%2Fb%3Ac.png",
    ]
    names = picture_names(images)
    assert names[:4] == ["a", "a_2", "A_3", "a_2_2"]
    assert len({name.casefold() for name in names}) == len(images)
    assert not any(set(name) & set('/\\:*?"<>|') for name in names)


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["photo.jpg"], None),
        (["photos/", "more/*.png"], None),
        (["https://example.org/a.jpg"], None),
        (["detector", "photo.jpg"], "detector"),
        (["OWNER/NAME", "photo.jpg"], "OWNER/NAME"),
        (["model.onnx", "photo.jpg"], "model.onnx"),
        (["no-such-folder", "photo.jpg"], "no-such-folder"),
    ],
)
def test_without_a_models_name_the_packages_own_detector_is_taken(words, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "model.onnx"):
        (tmp_path / name).write_bytes(b"")
    for name in ("photos", "detector"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "photo.jpg").touch()
    (tmp_path / "detector" / "config.json").write_text("{}")
    chosen, images = model_and_images(words)
    if model is None:
        assert Path(chosen).name == "blood-cells" and images == words
        assert "package's own" in capsys.readouterr().err
    else:
        assert (chosen, images) == (model, words[1:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["checkpoint.pth", "photo.jpg"], "checkpoint.pth is a checkpoint, no image: `ddetr convert checkpoint.pth"),
        (["photo.jpg", "model.onnx"], "model.onnx is a model, which stands before the images"),
        (["photo.jpg", "detector"], "detector is a model, which stands before the images"),
        (["empty", "photo.jpg"], "The folder empty holds neither a model (config.json) nor images."),
    ],
)
def test_what_is_no_image_is_never_left_to_the_packages_own_detector(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "model.onnx", "checkpoint.pth"):
        (tmp_path / name).touch()
    for name in ("empty", "detector"):
        (tmp_path / name).mkdir()
    (tmp_path / "detector" / "config.json").touch()
    with pytest.raises(ValueError, match=re.escape(said)):
        model_and_images(words)


def test_a_model_without_an_image_is_told(saved):
    with pytest.raises(ValueError, match="name an image too"):
        model_and_images([str(saved)])
