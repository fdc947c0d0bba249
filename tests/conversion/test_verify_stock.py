"""`ddetr verify` of folders of stock transformers: the installed transformers runs beside, and nobody is asked."""

import json
import re
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.goldens_other import HF_RESNET18, OTHER, as_hf_resnet, other_weights
from transformers.utils import logging

from ddetr.main import main
from deformable_detr_refine.conversion import convert_checkpoint
from deformable_detr_refine.conversion.code_bases import read_source
from deformable_detr_refine.conversion.proof import verify
from deformable_detr_refine.conversion.proof.stock import load_stock
from deformable_detr_refine.errors import CheckpointError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def stock(tmp_path):
    """stock(variant, release) writes a folder as that release does; images become a sixth of the usual side."""

    def write(variant, release="5.24.0", rename=str, **changes):
        place = tmp_path / "stock"
        place.mkdir()
        name = f"stock_tiny_{variant}{'' if release == '5.24.0' else '_' + release}_config"
        (place / "config.json").write_text(json.dumps(json.loads((OTHER / f"{name}.json").read_text()) | changes))
        settings = json.loads((OTHER / f"stock_preprocessor_{release}.json").read_text())
        settings["size"] = {"shortest_edge": 128, "longest_edge": 222}
        (place / "preprocessor_config.json").write_text(json.dumps(settings))
        weights = other_weights(f"stock_tiny_{variant}")
        if release == "5.24.0":
            names = json.loads((OTHER / f"stock_tiny_{variant}_written.json").read_text())
            tensors = {rename(name): weights[name] for name in names}
            save_file(tensors, place / "model.safetensors", {"format": "pt"})
        else:  # all names, second ones too
            torch.save(weights, place / "pytorch_model.bin")
        return place

    return write


def test_no_bar_is_drawn(stock, capsys, samples):
    was_shown = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        assert main(["verify", str(stock("refine")), "--images", str(samples / "10.jpg")]) == 0
        assert "Loading weights" not in capsys.readouterr().err and logging.is_progress_bar_enabled()
    finally:
        if not was_shown:
            logging.disable_progress_bar()


def verified(capsys, place, samples, *arguments):
    images = [str(samples / name) for name in ("10.jpg", "BloodImage_00000.jpg")]
    status = main(["verify", str(place), "--images", *images, "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("variant", "release", "more"),
    [
        ("refine_twostage", "5.24.0", {}),
        ("plain", "4.57.1", {"quantization_config": {"quant_method": "none"}, "_name_or_path": "stranger/evil"}),
        ("single_scale", "4.57.1", {}),
        ("refine", "5.24.0", {"rename": as_hf_resnet, "backbone_config": HF_RESNET18}),
    ],
)
def test_transformers_agrees(variant, release, more, stock, samples, capsys):
    status, report = verified(capsys, stock(variant, release, **more), samples)
    assert status == 0 and report["passed"] and "MMDetection" not in report["versions"]
    assert [row["shape"] for row in report["same_pixels"]] == [[170, 128], [128, 170]]
    for row in report["same_pixels"]:
        assert row["verdict"] == "PASS" and row["pixel_values"] <= 1e-5
        assert row["difference"]["detections"] == 100 and row["difference"]["logits"] <= 1e-4


def test_a_changed_weight_is_found(stock, samples, tmp_path, capsys, monkeypatch):
    def convert_wrongly(checkpoint, output, *arguments, **options):
        report = convert_checkpoint(checkpoint, output, *arguments, **options)
        weights = load_file(output / "model.safetensors")
        weights["class_heads.1.bias"][2] += 1e-3
        save_file(weights, output / "model.safetensors", {"format": "pt"})
        return report

    monkeypatch.setattr(verify, "convert_checkpoint", convert_wrongly)
    status, report = verified(capsys, stock("refine"), samples, "--keep", str(tmp_path / "keep"))
    assert status == 1 and not report["passed"]
    assert report["same_pixels"][0]["difference"]["logits"] == pytest.approx(1e-3, rel=0.02)
    assert (tmp_path / "keep" / "model" / "config.json").is_file()


def test_the_table_has_no_rows_of_mmdetection(stock, samples, capsys):
    assert main(["verify", str(stock("refine", "4.30.2")), "--images", str(samples / "10.jpg")]) == 0
    told = capsys.readouterr().out
    assert re.search(r"10\.jpg +170x128 .* 30/30 .* PASS\n\nPASS\n$", told) and "own resizing" not in told


def test_a_published_name_is_fetched_first(stock, samples, capsys, monkeypatch):
    folder, asked = stock("plain"), []

    def fetch(name, revision):
        asked.append(name)
        return folder

    monkeypatch.setattr("deformable_detr_refine.conversion.download.place.fetch_from_hub", fetch)
    status, report = verified(capsys, "original", samples)
    assert status == 0 and report["passed"] and asked == ["SenseTime/deformable-detr"]


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--round-trip"], "--round-trip is for MMDetection's"),
        ({"activation_function": "gelu"}, [], "activation_function"),
        ({"id2label": {"0": "a", "2": "b"}}, [], r"transformers \S+ does not load"),
    ],
)
def test_what_cannot_be_verified_is_one_sentence(changes, arguments, message, stock, samples, capsys):
    place = stock("refine", **changes)
    assert main(["verify", str(place), "--images", str(samples / "10.jpg"), *arguments]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert re.match(f"ddetr verify: error: .*{message}", error)


def test_a_backbone_of_the_hub_is_not_asked_for(stock):
    _, source = read_source(stock("single_scale", "4.57.1"))
    source.facts.raw |= {"backbone": "microsoft/resnet-18", "use_timm_backbone": False}
    with pytest.raises(CheckpointError, match=r"config\.json only names: transformers asks the Hub"):
        load_stock(source)
