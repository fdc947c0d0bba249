"""What transformers' users expect: Auto classes, the pipeline, and custom code where the package is not installed."""

import json
import os
import subprocess

import pytest
import torch
from PIL import Image
from support.bare_python import make_bare_python
from support.custom_code import LOAD_AS_CUSTOM_CODE
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection, pipeline

from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
    DeformableDetrRefineModel,
)


def test_auto_classes_load_ours(saved):
    assert type(AutoConfig.from_pretrained(saved)) is DeformableDetrRefineConfig
    assert type(AutoModel.from_pretrained(saved)) is DeformableDetrRefineModel
    assert type(AutoModelForObjectDetection.from_pretrained(saved)) is DeformableDetrRefineForObjectDetection
    assert type(AutoImageProcessor.from_pretrained(saved)) is DeformableDetrRefineImageProcessor


def test_a_processor_saved_alone_is_loaded(tmp_path):
    DeformableDetrRefineImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is DeformableDetrRefineImageProcessor and dict(loaded.size)["longest_edge"] == 96


def test_pipeline_is_the_model_without_a_word(saved, detector, samples, capfd, recwarn):
    paths = [str(samples / name) for name in ("10.jpg", "11.jpg")]
    # Handlers of transformers' own logger write to stderr, where anything but progress would be a warning.
    detect = pipeline("object-detection", model=str(saved))
    results = detect(paths, threshold=0.0, batch_size=2)
    results += detect([Image.open(path) for path in paths], threshold=0.0)
    results.append(detect(paths[0], threshold=0.0))
    words = [line for line in capfd.readouterr().err.splitlines() if line.strip() and "Loading weights" not in line]
    assert words == [] and [str(w.message) for w in recwarn.list if "unclosed file" not in str(w.message)] == []

    processor = AutoImageProcessor.from_pretrained(saved)
    for path, batched, opened in zip(paths, results[:2], results[2:4], strict=True):
        with Image.open(path) as image, torch.no_grad():
            outputs = detector(**processor(image, return_tensors="pt"))
            size = [(image.height, image.width)]
        (expected,) = processor.post_process_object_detection(outputs, 0.0, size)
        for ours in (batched, opened):
            assert [row["score"] for row in ours] == pytest.approx(expected["scores"].tolist(), abs=1e-4)
        assert [list(row["box"].values()) for row in opened] == expected["boxes"].int().tolist()
    assert results[4] == results[2]


def test_pipeline_takes_a_url(saved, samples):
    from functools import partial
    from http.server import HTTPServer, SimpleHTTPRequestHandler
    from threading import Thread

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=samples)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        detect = pipeline("object-detection", model=str(saved))
        fetched = detect(f"http://127.0.0.1:{server.server_port}/10.jpg", threshold=0.0)
        server.shutdown()
    assert fetched == detect(str(samples / "10.jpg"), threshold=0.0)


USE_AND_SAVE_AGAIN = """
model.save_pretrained(folder + "/again")
processor.save_pretrained(folder + "/again")
processor.save_pretrained(folder + "/alone")
alone = AutoImageProcessor.from_pretrained(folder + "/alone", trust_remote_code=True)
print(json.dumps({
    "module": type(model).__module__,
    "alone": type(alone).__name__,
    "logits": outputs.logits.flatten().tolist(),
    "pipeline": [row["score"] for row in detect(image, threshold=0.0)],
}))
"""


@pytest.mark.slow
def test_saved_folder_loads_as_custom_code(saved, detector, samples, tmp_path):
    folder = tmp_path / "hub"
    detector.save_pretrained(folder)
    DeformableDetrRefineImageProcessor.from_pretrained(saved).save_pretrained(folder)
    image = str(samples / "10.jpg")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [make_bare_python(tmp_path / "bare"), "-c", LOAD_AS_CUSTOM_CODE + USE_AND_SAVE_AGAIN, folder, image],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["module"].startswith("transformers_modules.")
    assert result["alone"] == "DeformableDetrRefineImageProcessor"
    processor = AutoImageProcessor.from_pretrained(saved)
    with torch.no_grad():
        expected = detector(**processor(image, return_tensors="pt")).logits.flatten()
    torch.testing.assert_close(torch.tensor(result["logits"]), expected, rtol=0, atol=1e-5)
    assert len(result["pipeline"]) == 100
    # What remote code saves is whole again.
    assert type(AutoModelForObjectDetection.from_pretrained(folder / "again")) is DeformableDetrRefineForObjectDetection
    assert (folder / "again" / "modeling_deformable_detr_refine.py").is_file()
    assert not (folder / "fused_passes_reference.py").exists()  # tests' own


def test_local_class_wins_over_the_folders_code(saved):
    assert json.loads((saved / "config.json").read_text())["auto_map"]
    loaded = AutoModelForObjectDetection.from_pretrained(saved, trust_remote_code=True)
    assert type(loaded) is DeformableDetrRefineForObjectDetection
