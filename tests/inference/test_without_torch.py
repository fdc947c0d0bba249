"""An ONNX file runs where PyTorch is not installed: with the same detections, and a sentence on whatever needs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from support.without_torch import environment_without_torch, save_exported_means

from ddetr.main import main
from deformable_detr_refine import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.inference.load_detector import load_detector

pytest.importorskip("onnx", reason="pip install deformable-detr-refine[onnx]")
pytest.importorskip("onnxruntime")

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def environment(module_folder):
    return environment_without_torch(module_folder("environment") / "site")


@pytest.fixture(scope="module")
def exported(module_folder) -> Path:
    return save_exported_means(module_folder("exported") / "means.onnx")


@pytest.fixture(scope="module")
def photos(module_folder) -> Path:
    folder = module_folder("photos")
    for name in ("10.jpg", "BloodImage_00000.jpg"):
        shutil.copy(SAMPLES / "images" / name, folder)
    return folder


def ddetr(environment, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-P", "-m", "ddetr.main", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("tiles", [[], ["--tiles", "2x2"]], ids=["whole", "tiles"])
def test_detect_finds_what_it_finds_with_torch(exported, environment, photos, tiles, tmp_path):
    words = ["detect", exported, photos, "--threshold", "0", "--draw", *tiles, "--output"]
    done = ddetr(environment, *words, tmp_path / "without")
    assert done.returncode == 0, done.stderr
    assert main([*map(str, words), str(tmp_path / "with")]) == 0
    found, expected = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("without", "with"))
    assert found == expected and len(found) == 2 and all(record["boxes"] for record in found)
    assert len(list((tmp_path / "without" / "drawn").iterdir())) == len(found)


def test_batch_takes_it(exported, environment, photos, tmp_path):
    done = ddetr(environment, "batch", exported, photos, "--output", tmp_path / "a.jsonl", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line)["boxes"] for line in (tmp_path / "a.jsonl").read_text().splitlines())


PUBLIC = """
import sys
import deformable_detr_refine as package
print(package.Detections.__name__, package.load_image(sys.argv[1]).size)
for name in ("DeformableDetrRefineForObjectDetection", "accelerate_transformers", "nothing"):
    try:
        getattr(package, name)
    except (ImportError, AttributeError) as error:
        print(type(error).__name__, error)
try:
    from deformable_detr_refine.modeling import use_backend
except ImportError as error:
    print(type(error).__name__, error)
from deformable_detr_refine import *
from deformable_detr_refine.modeling import *
print(sorted(package.__all__))
try:
    from deformable_detr_refine.inference.load_detector import load_detector
    load_detector("folder")
except ImportError as error:
    print(type(error).__name__, error)
assert not {"torch", "transformers"} & {name for name, module in sys.modules.items() if module is not None}
"""


def test_the_package_says_what_needs_torch(environment):
    words = [sys.executable, "-c", PUBLIC, SAMPLES / "images" / "10.jpg"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    read, model, accelerate, nothing, imported, names, folder = done.stdout.splitlines()
    assert read.startswith("Detections (") and done.returncode == 0, done.stderr
    # hasattr() is False, and an import tells why.
    assert model.startswith("AttributeError DeformableDetrRefineForObjectDetection needs torch: pip install")
    assert accelerate.startswith("AttributeError accelerate_transformers needs torch: pip install")
    assert imported.startswith("ImportError use_backend needs torch: pip install")
    assert nothing.startswith("AttributeError") and names == "['Detections', 'load_image']"
    assert folder.startswith("ImportError folder needs torch: pip install")


def test_doctor_says_what_runs(environment):
    done = ddetr(environment, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["why"] == "torch is missing: .onnx files run, nothing else"
    assert "torch is missing" in ddetr(environment, "doctor").stdout


@pytest.mark.parametrize("form", ["onnx", "mlflow"])
def test_export_says_first_that_it_needs_torch(environment, form, tmp_path):
    done = ddetr(environment, "export", "--to", form, SAMPLES / "blood-cells", tmp_path / "out")
    assert done.returncode == 2 and "ddetr export needs torch: pip install" in done.stderr


def test_torch_is_not_imported_for_an_onnx_file(exported, photos, tmp_path):
    code = (
        "import sys; from ddetr.main import main; status = main(sys.argv[1:])\n"
        "sys.exit(status or {'torch', 'transformers'} & set(sys.modules) or 0)"
    )
    for words in (
        ["detect", exported, photos, "--output", tmp_path],
        ["batch", exported, photos, "--output", "a.jsonl"],
    ):
        command = [sys.executable, "-c", code, *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path.parent, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


def test_torch_alone_is_as_good_as_none(exported, photos, tmp_path):
    (tmp_path / "site").mkdir()
    hide = "import sys; sys.modules['transformers'] = None\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(hide, encoding="utf-8")
    done = ddetr(
        {**os.environ, "PYTHONPATH": str(tmp_path / "site")}, "detect", exported, photos, "--output", tmp_path / "found"
    )
    assert done.returncode == 0, done.stderr


def test_annotations_can_be_looked_up():
    assert get_type_hints(Detector.__init__)["dtype"] == torch.dtype | str | None
    assert DeformableDetrRefineForObjectDetection in get_args(get_type_hints(load_detector)["return"])


def test_a_model_folder_needs_torch_in_one_sentence(environment, photos, tmp_path):
    done = ddetr(environment, "detect", photos / "10.jpg", "--output", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "needs torch: pip install" in done.stderr.splitlines()[-1]
