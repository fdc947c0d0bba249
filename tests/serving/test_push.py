"""Pushing through the real client to a stand-in of the Hub, and loading from it, with and without this package."""

import hashlib
import json
import logging
import math
import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file
from support.bare_python import make_bare_python
from support.custom_code import LOAD_AS_CUSTOM_CODE
from support.hub_server import TOKEN, Hub, hub_server

from ddetr.main import main
from deformable_detr_refine import (
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
    load_image,
)
from deformable_detr_refine.secret_text import line_with_secret, without_secrets
from deformable_detr_refine.serving.push import push

NAME = "someone/cells"
METRICS = {
    "AP": 0.61234, "AP50": 0.9, "AP75": 0.7, "APs": -1.0, "APm": 0.5, "APl": 0.6,
    "AR1": 0.3, "AR10": 0.6, "AR100": 0.7, "ARs": -1.0, "ARm": 0.6, "ARl": 0.7,
    "per_class": {f"LABEL_{n}": {"AP": n / 10, "AP50": 0.5, "AP75": 0.4, "AR100": 0.6, "objects": n} for n in range(5)},
    "about": {"data": "/home/someone/datasets/bccd", "split": "validation", "images": 87, "objects": 1200},
}  # fmt: skip
SETTINGS = {"data": "/home/someone/datasets/bccd", "learning_rate": 2e-4, "hub_token": TOKEN, "output_dir": "/home/x"}


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Hub:
    """The client in this process speaks to it, with an empty cache and a token."""
    with hub_server() as hub:
        # As HF_ENDPOINT would, were it set before the imports.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def detector(saved_small) -> DeformableDetrRefineForObjectDetection:
    return DeformableDetrRefineForObjectDetection.from_pretrained(saved_small).eval()


@pytest.fixture
def trained(saved_small, tmp_path) -> Path:
    """A model folder as a training leaves it."""
    folder = tmp_path / "trained"
    DeformableDetrRefineForObjectDetection.from_pretrained(saved_small).save_pretrained(folder)
    DeformableDetrRefineImageProcessor.from_pretrained(saved_small).save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 3120, "epoch": 60.0, "log_history": []}))
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "checkpoint-3120").mkdir()
    return folder


def card_of(hub: Hub, revision: str = "main") -> tuple[dict, str]:
    _, front, text = hub.files(NAME, revision)["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(front), text


def test_push_uploads_the_model_in_one_commit(hub, trained, samples):
    url = push(trained, NAME, license="mit", image=samples / "10.jpg", threshold=0.0)
    assert url.startswith(f"{hub.url}/{NAME}/commit/")
    assert len(hub.repositories[NAME].messages) == 2  # the first made the repository
    files = hub.files(NAME)
    code = {path.name for path in trained.glob("*.py")}
    assert code >= {"modeling_deformable_detr_refine.py", "ops.py"}
    others = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", ".gitattributes"}
    assert set(files) == code | others | {"sample.jpg", "sample_detections.jpg"}
    assert json.loads(files["config.json"])["auto_map"]["AutoModelForObjectDetection"]
    assert load_image(files["sample_detections.jpg"]).size == load_image(samples / "10.jpg").size


def test_what_would_be_uploaded_is_told_before(hub, trained, samples, monkeypatch, capsys):
    words = ["push", str(trained), NAME, "--image", str(samples / "10.jpg"), "--threshold", "0"]
    monkeypatch.delenv("HF_TOKEN")
    assert main([*words, "--dry-run"]) == 0
    head, *listed, end = capsys.readouterr().out.splitlines()
    assert not hub.requests and end == "Nothing is uploaded: a dry run."
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == [head, *listed]
    assert head.startswith(f"To {NAME}: {len(listed)} files, ")
    sizes = {name: int(size.replace(",", "")) for name, size, _ in map(str.split, listed)}
    uploaded = {name: len(content) for name, content in hub.files(NAME).items() if name != ".gitattributes"}
    assert sizes == uploaded


def test_card_is_made_from_facts(hub, trained):
    push(trained, NAME, license="mit", threshold=0.35)
    front, text = card_of(hub)
    assert front["license"] == "mit" and front["pipeline_tag"] == "object-detection"
    assert front["inference"]["parameters"]["threshold"] == 0.35 and "widget" not in front
    (entry,) = front["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "cells" and result["task"]["type"] == "object-detection"
    assert result["dataset"]["name"] == "bccd" and result["dataset"]["split"] == "validation"
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    # What COCOeval could not judge (-1) is not there.
    assert values["AP (IoU 0.50:0.95)"] == 0.6123 and len(values) == 10
    assert "bccd, validation (87 images, 1,200 objects)" in text
    assert "| LABEL_3 | 0.300 | 0.500 | 3 |" in text
    assert "learning_rate: 0.0002" in text and "3,120 steps, 60 epochs" in text
    assert hashlib.sha256(hub.files(NAME)["model.safetensors"]).hexdigest() in text
    assert "licence of the weights: mit" in text
    assert "/home" not in text and "hub_token" not in text


def test_source_of_a_converted_model_and_sections_of_others_stay(hub, trained):
    (trained / "README.md").write_text(
        "---\nlicense: cc-by-4.0\ntags:\n- mmdetection\n---\n\n# Old\n\n## Source\n\n- file: `a.pth`\n\n"
        "## Figures\n\nold ones\n\n## Limits\n\nNot for medicine.\n"
        "![curve](curve.svg)\nSee [the curves](../curves.svg) and [the paper](https://arxiv.org/abs/2010.04159).\n"
    )
    for _ in range(2):  # what is pushed can be pushed again
        push(trained, NAME)
        front, text = card_of(hub)
        assert front["license"] == "cc-by-4.0" and "mmdetection" in front["tags"]
        assert text.count("## Source\n\n- file: `a.pth`") == text.count("## Limits\n\nNot for medicine.") == 1
        assert text.count("## Figures") == 1 and "old ones" not in text
        assert "See the curves and [the paper](https://arxiv.org/abs/2010.04159)." in text and "curve.svg" not in text
        (trained / "README.md").write_bytes(hub.files(NAME)["README.md"])


def test_no_token_in_card_log_or_output(hub, trained, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    (trained / "README.md").write_text(f"# Mine\n\n## Command\n\nHF_TOKEN={TOKEN} ddetr train\n")
    assert main(["push", str(trained), NAME, "--message", "first"]) == 0
    hub.fail_at = "commit"
    assert main(["push", str(trained), NAME]) == 2
    seen = capfd.readouterr()
    assert "The Hub refuses: the commit broke off" in seen.err
    assert TOKEN not in seen.out + seen.err + caplog.text
    assert all(TOKEN.encode() not in content for content in hub.blobs.values())
    assert "HF_TOKEN=[removed] ddetr train" in card_of(hub)[1]
    assert any(authorization == f"Bearer {TOKEN}" for _, _, authorization in hub.requests)


def test_no_password_of_an_address_or_a_setting_becomes_public(hub, trained):
    address = "https://me:correcthorse@example.org/data.zip?sig=batterystaple"
    metrics = json.loads((trained / "metrics.json").read_text())
    metrics.setdefault("about", {})["data"] = address
    (trained / "metrics.json").write_text(json.dumps(metrics))
    settings = {"data": address, "optim_args": {"password": "correcthorse"}, "num_train_epochs": 3}
    (trained / "settings.yaml").write_text(yaml.safe_dump(settings))
    for name in ("config.json", "preprocessor_config.json"):
        values = json.loads((trained / name).read_text())
        (trained / name).write_text(json.dumps({**values, "registry": {"key": "batterystaple"}}))
    assert main(["push", str(trained), NAME]) == 0
    assert not [blob for blob in hub.blobs.values() if b"batterystaple" in blob or b"correcthorse" in blob]
    assert "https://example.org/data.zip" in card_of(hub)[1]


def test_no_secret_in_nested_settings_a_photo_or_a_message_becomes_public(hub, trained, samples, tmp_path):
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nbatterystaple\n-----END OPENSSH PRIVATE KEY-----"
    nested = {"passphrase": "correct horse", "folders": ["/home/x/someone", "C:\\Users\\someone\\cells"]}
    settings = {"fsdp_config": nested, "note": "a " * 35 + key, "num_train_epochs": 3}
    (trained / "settings.yaml").write_text(yaml.safe_dump(settings))
    # A front matter of other types than the Hub has.
    (trained / "README.md").write_text("---\ntags: [mine, 3]\nlicense: [mit]\nlanguage: 2024-01-01\n---\n")
    photo = tmp_path / "photo.jpg"
    load_image(samples / "10.jpg").save(photo, comment=b"batterystaple", xmp=b"batterystaple")
    push(trained, NAME, image=photo, message=f"with {TOKEN}")
    for blob in hub.blobs.values():
        assert not any(word in blob for word in (b"batterystaple", b"correct horse", b"/home/x", b"Users"))
    assert hub.repositories[NAME].messages[-1] == "with [removed]"
    assert "someone" in card_of(hub)[1] and "num_train_epochs: 3" in card_of(hub)[1]


SECRETS = (
    "ghr_" + "a1B2" * 9,
    "npm_" + "a1B2" * 9,
    "dapi" + "0a1b2c3d" * 4,
    "xapp-1-A012-345-" + "ab12" * 8,
    "?sv=2022-11-02&ss=b&sig=abcDEF%2F123%3D",
    "Authorization: Basic bWU6Y29ycmVjdGhvcnNl",
    "password: hunter2",
    '"passphrase": "correct horse battery"',
    "ddetr train --password correcthorse",
    "https://me:p/w#d@example.org/x",
    "host=example.org,user=me,pass=correcthorse",
    "key=correcthorse,name=cells",
    "AccountName=cells,AccountKey=correcthorse,EndpointSuffix=core.windows.net",
    r"from https:\/\/me:correcthorse@example.org\/x",
    "alice:correcthorse@db.internal:5432/x",
    "alice:hunter2@db:5432",
    "alice:s3cret-horse@example.org/x",
    "me:correcthorse@localhost",
    "me:hunter2@10.0.0.1/x",
    "password, hunter2...",
    "password, hunter2",
    '["hub_token", "a1B2a1B2"]',
    "host = cells, key = correct7horse, port = 1",
    "user=me, pass=correcthorse",
    "key = a1B2a1B2, token = b2C3b2C3",
    "name = cells, key = a1B2a1B2",
    "key = correcthorse, name = cells",
    r"from https:\u002f\u002fme:correcthorse\u0040example.org and password: correcthorse",
    r"args: {\"password\": \"correcthorse\"}",
    "https://example.org/?next=https%3A%2F%2Fme%3Acorrecthorse%40example.org",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\nabc\n-----END PGP PRIVATE KEY BLOCK-----",
    "-----BEGIN RSA PRIVATE KEY-----\nDEK-Info: AES-128\n\nMIIE\n-----END RSA PRIVATE KEY-----",
)


@pytest.mark.parametrize("text", SECRETS, ids=lambda text: text[:16])
def test_secrets_of_many_forms(text):
    assert line_with_secret(text) == 1
    left = without_secrets(text)
    assert line_with_secret(left) is None
    assert not any(word in left for word in ("abc", "MIIE", "hunter2", "horse", "p/w", "a1B2", "ab12", "0a1b", "bWU6"))


@pytest.mark.parametrize(
    "text",
    [
        "sorted(boxes, key=lambda box: -box.score)",
        "max(boxes,key=operator_score)",
        r"C:\u0020 and \"scores\"",
        "100%25",
        "monkey=banana,x",
        "sorted(boxes, key=operator_score, reverse=True)",
        "mailto:someone@example.org, Author:someone@example.org, git@example.org:owner/name.git",
        "python:3.11-slim@sha256:0a1b2c3d, npm:vite@6.0.0-beta.1, AP:61.2@0.50:95, 10:30@example.org",
        "sorted(boxes, reverse=True, key=lambda b: b.score), query = value, key = encoder_hidden_states",
        "boxes,key=lambda box1: -box1.score",
        "Authors:jane.doe@uni-bonn.de, Kontakt:jane_doe@uni-bonn.de, Correspondence:müller-doe@uni-bonn.de",
        "lr:1e-4@epoch:30, IoU:thresh@epoch:10, photo:1234@2x.png, AP:0.5@step:1000",
        'a list of "password", "yolov8x", "secret", "mobilenet_v3_large_100", "a token", "resnet50"',
        "a secret, layer1 of it",
        "then a password, layer1",
        "password, layer1 and more",
        "each token, resnet50's too; a password, then a secret, as car:front@left",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text):
    assert line_with_secret(text) is None and without_secrets(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "token",
        "key=a,",
        "a(pass=",
        "\\u002f",
        "%2f:",
        "SG.",
        "a://b:c",
        "-----BEGIN PRIVATE KEY-----",
        "password='\\a",
        "a:bbbb@c.",
        "a=b, key = ",
        "secret,a",
        '"secret","1a',
        "a:b1-@c.",
    ],
)
def test_a_long_text_is_looked_through(text):
    """Patterns that took the square of a text's length did not come to an end here."""
    without_secrets(text * 50_000)
    line_with_secret(text * 50_000)


def test_a_secret_in_a_text_stops_the_push(hub, trained, capsys):
    config = json.loads((trained / "config.json").read_text())
    labels = dict(enumerate(["hf_abcdefghijklmnopqrstuvwxyz", *config["label2id"]][: len(config["label2id"])]))
    config.update(id2label=labels, label2id={name: label for label, name in labels.items()})
    (trained / "config.json").write_text(json.dumps(config))
    assert main(["push", str(trained), NAME]) == 2
    said = capsys.readouterr().err
    assert "Nothing is pushed: config.json would hold, in line" in said and "hf_abc" not in said and not hub.blobs


@pytest.mark.parametrize("step", ["upload", "commit"])
def test_a_push_that_breaks_off_leaves_the_old_revision_whole(hub, trained, step):
    push(trained, NAME)
    before, sha = hub.files(NAME), hub.repositories[NAME].branches["main"]
    model = DeformableDetrRefineForObjectDetection.from_pretrained(trained)
    with torch.no_grad():
        model.class_heads[0].bias += 1
    model.save_pretrained(trained)
    hub.fail_at = step
    with pytest.raises(OSError, match="The Hub refuses"):
        push(trained, NAME)
    assert hub.files(NAME) == before and hub.repositories[NAME].branches["main"] == sha
    hub.fail_at = None
    push(trained, NAME)
    assert hub.files(NAME)["model.safetensors"] != before["model.safetensors"]


def test_revisions_and_cache(hub, trained, monkeypatch):
    push(trained, NAME)
    model = DeformableDetrRefineForObjectDetection.from_pretrained(trained)
    with torch.no_grad():
        model.class_heads[0].bias.fill_(7)
    model.save_pretrained(trained)
    push(trained, NAME, revision="trial")
    first = hub.repositories[NAME].branches["main"]

    def bias(**where) -> float:
        loaded = DeformableDetrRefineForObjectDetection.from_pretrained(NAME, **where)
        return loaded.class_heads[0].bias[0].item()

    assert bias(revision="trial") == 7 != bias()
    assert bias(revision=first) == bias()
    downloads = [path for method, path, _ in hub.requests if method == "GET" and path.endswith("model.safetensors")]
    assert len(downloads) == 2  # one a revision
    DeformableDetrRefineImageProcessor.from_pretrained(NAME, revision="trial")
    asked = len(hub.requests)
    assert bias(revision="trial", local_files_only=True) == 7
    DeformableDetrRefineImageProcessor.from_pretrained(NAME, revision="trial", local_files_only=True)
    assert len(hub.requests) == asked
    with pytest.raises(OSError, match="none"):
        bias(revision="none")


def test_push_to_hub_of_model_and_processor(hub, detector, saved_small):
    detector.push_to_hub(NAME)
    DeformableDetrRefineImageProcessor.from_pretrained(saved_small).push_to_hub(NAME)
    files = hub.files(NAME)
    assert {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "modeling_deformable_detr_refine.py",
    } <= set(files)
    loaded = DeformableDetrRefineForObjectDetection.from_pretrained(NAME)
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_weights_arrive_bit_by_bit_and_older_files_go(hub, trained):
    push(trained, NAME)
    repository = hub.repositories[NAME]
    tree = dict(repository.trees[repository.branches["main"]])
    repository.commit(
        "main",
        tree
        | {"model-00001-of-00002.safetensors": hub.keep(b"old")}
        | {name: hub.keep(b"mine") for name in ("notes.txt", "handler.py")},
        "by hand",
    )
    push(trained, NAME)
    files = hub.files(NAME)
    assert "model-00001-of-00002.safetensors" not in files
    assert files["notes.txt"] == files["handler.py"] == b"mine"
    (trained / "pulled.safetensors").write_bytes(files["model.safetensors"])
    pulled, own = load_file(trained / "pulled.safetensors"), load_file(trained / "model.safetensors")
    assert pulled.keys() == own.keys() and all(torch.equal(pulled[name], own[name]) for name in own)


def test_what_cannot_be_is_said_before_the_upload(hub, trained, tmp_path, monkeypatch, capsys):
    def error_of(*words: str) -> str:
        assert main(["push", *words]) == 2
        return capsys.readouterr().err

    assert "There is no model folder" in error_of(str(tmp_path / "none"), NAME)
    assert "no name on the Hub" in error_of(str(trained), "a/b/c")
    assert "give OWNER/NAME" in error_of(str(trained), "cells")
    assert "no id of a licence" in error_of(str(trained), NAME, "--license", "My Own")
    assert "no image file" in error_of(str(trained), NAME, "--image", str(tmp_path / "none.jpg"))
    assert "There is no file of metrics" in error_of(str(trained), NAME, "--metrics", str(tmp_path / "none.json"))
    (trained / "metrics.json").write_text("{}")
    assert "has no AP" in error_of(str(trained), NAME)
    forms = ({"AP50": "x"}, {"AP50": math.nan}, {"about": {"split": ["x"]}}, {"per_class": {"can": {"AP": "x"}}})
    for other in ({"per_class": [1]}, {"per_class": {"can": 0.3}}, {"about": "mine"}, *forms):
        (trained / "metrics.json").write_text(json.dumps({"AP": 0.5, **other}))
        assert "is not as `ddetr evaluate` writes it" in error_of(str(trained), NAME)
    (trained / "metrics.json").write_text("[" * 100_000)
    assert "is not JSON" in error_of(str(trained), NAME)
    (trained / "metrics.json").unlink()
    (trained / "trainer_state.json").write_text('{"global_step": "x"}')
    assert "is not as `ddetr train` writes it" in error_of(str(trained), NAME)
    (trained / "trainer_state.json").unlink()
    (trained / "README.md").write_text("---\ntags: 3\n---\n")
    assert "has a front matter that is not YAML, or not a card's" in error_of(str(trained), NAME)
    (trained / "README.md").unlink()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert "hf auth login" in error_of(str(trained), NAME)
    assert hub.requests == []


def test_a_licence_that_the_hub_does_not_know_makes_no_repository(hub, trained, capsys):
    assert main(["push", str(trained), NAME, "--license", "nobodys"]) == 2
    error = capsys.readouterr().err
    assert "The Hub refuses the model card, and nothing is pushed" in error and "must be one of [mit" in error
    assert not hub.repositories


USE = """
print(json.dumps({"logits": outputs.logits.flatten().tolist(), "found": len(detect(image, threshold=0.0))}))
"""


@pytest.mark.slow
def test_pushed_model_loads_where_the_package_is_not(hub, trained, detector, samples, tmp_path):
    push(trained, NAME)
    image = str(samples / "10.jpg")
    environment = {
        **{key: value for key, value in os.environ.items() if key != "HF_TOKEN"},
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    words = [make_bare_python(tmp_path / "bare"), "-c", LOAD_AS_CUSTOM_CODE + USE, NAME, image]
    for offline in ("0", "1"):  # the second time from the cache
        run = subprocess.run(
            words, env={**environment, "HF_HUB_OFFLINE": offline}, cwd=tmp_path, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout.splitlines()[-1])
        processor = DeformableDetrRefineImageProcessor.from_pretrained(trained)
        with torch.no_grad():
            expected = detector(**processor(image, return_tensors="pt")).logits.flatten()
        torch.testing.assert_close(torch.tensor(result["logits"]), expected, rtol=0, atol=1e-5)
        assert result["found"] == 100
