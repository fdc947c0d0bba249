"""What `--to transformers` writes, loaded by transformers itself: the installed release, older ones in environments.

Slow: those are installed from a package index, beside the PyTorch that is here.
"""

import json
import os
import re
import subprocess
import sys
import venv

import numpy as np
import pytest
import torch
from support.goldens_mmdet import golden_model
from support.goldens_other import other_batch, write_checkpoint

from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.conversion import convert_checkpoint, export_checkpoint

pytestmark = pytest.mark.slow

RELEASES = {
    "4.30.2": ["transformers==4.30.2", "huggingface-hub==0.36.0", "tokenizers==0.13.3"],
    "4.40.2": ["transformers==4.40.2", "huggingface-hub==0.36.0", "tokenizers==0.19.1"],
    "4.57.1": ["transformers==4.57.1", "huggingface-hub==0.36.0", "tokenizers==0.22.1"],
    "installed": [],
}
CASES = (
    "stock_tiny_plain",
    "stock_tiny_refine",
    "stock_tiny_refine_twostage",
    "stock_tiny_single_scale",
    "mmdet",
    "dc5",
)
# Runs in the release's process: loads every folder, and writes what it computes of one padded batch.
THEIRS = """
import json, sys
from pathlib import Path
import numpy as np, torch, transformers
from transformers import AutoImageProcessor, DeformableDetrForObjectDetection

batch = {name: torch.from_numpy(array) for name, array in np.load("batch.npz").items()}
report = {"version": transformers.__version__}
for folder in map(Path, sys.argv[1:]):
    model, info = DeformableDetrForObjectDetection.from_pretrained(folder, output_loading_info=True)
    with torch.no_grad():
        output = model.eval()(**batch)
    np.savez(folder.parent / "theirs.npz", logits=output.logits.numpy(), boxes=output.pred_boxes.numpy())
    processor = AutoImageProcessor.from_pretrained(folder)
    report[folder.parent.name] = {
        "wrong": [str(name) for names in info.values() for name in names],
        "processor": type(processor).__name__,
        "size": dict(processor.size),
        "labels": len(model.config.id2label),
        "queries": model.config.num_queries,
    }
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def written(module_folder):
    """A folder with a folder for each case: our model, and the same as written for transformers."""
    root = module_folder("written")
    for case in CASES:
        ours = root / case / "ours"
        if case.startswith("stock"):
            convert_checkpoint(write_checkpoint(case, root / case / "source"), ours)
        else:
            model = golden_model("tiny", "refine_twostage" if case == "mmdet" else "refine")
            if case == "dc5":
                model.config.dilation = True
            model.save_pretrained(ours)
            DeformableDetrRefineImageProcessor().save_pretrained(ours)
        export_checkpoint(ours, root / case / "theirs", "transformers")
    np.savez(root / "batch.npz", **{name: tensor.numpy() for name, tensor in other_batch("tiny").items()})
    return root


@pytest.fixture(scope="module")
def ours(written):
    """case -> (config, what our model computes of the batch)."""
    outputs = {}
    for case in CASES:
        model = DeformableDetrRefineForObjectDetection.from_pretrained(written / case / "ours").eval()
        with torch.no_grad():
            outputs[case] = model.config, model(**other_batch("tiny"))
    return outputs


@pytest.fixture(scope="module", params=RELEASES)
def theirs(request, written, module_folder):
    """What a release says of the folders, after it has computed."""
    python = sys.executable
    if packages := RELEASES[request.param]:
        folder = module_folder("environment")
        venv.create(folder, symlinks=True)
        python = str(folder / "bin" / "python")
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-compile", "--quiet"]
        if subprocess.run([*install, *packages], capture_output=True).returncode:
            pytest.skip(f"no package index gives {packages[0]}")
        places = [path for path in sys.path if path.endswith("site-packages")]
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        below = folder / "lib" / version / "site-packages" / "below.pth"
        below.write_text("".join(f"import site; site.addsitedir({place!r})\n" for place in places))
    folders = [str(written / case / "theirs") for case in CASES]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [python, "-c", THEIRS, *folders], cwd=written, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert request.param in ("installed", report["version"])
    return report


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_the_same(case, theirs, written, ours):
    config, output = ours[case]
    # 4.30 misses a counter of some norms, and names of layer 0's heads of which it has loaded the decoder's.
    missed = r"(class|bbox)_embed\.0\..*|.*num_batches_tracked" if theirs["version"] == "4.30.2" else "nothing"
    assert [name for name in theirs[case]["wrong"] if not re.fullmatch(missed, name)] == []
    with np.load(written / case / "theirs.npz") as found:
        order = np.linalg.norm(found["boxes"][:, :, None] - output.pred_boxes.numpy()[:, None], axis=-1).argmin(
            -1
        )  # near-equal scores may swap two proposals
        for image in range(2):
            assert sorted(order[image]) == list(range(output.logits.shape[1]))
            assert output.logits[image, order[image]].numpy() == pytest.approx(found["logits"][image], abs=1e-5)
            assert output.pred_boxes[image, order[image]].numpy() == pytest.approx(found["boxes"][image], abs=1e-5)
    assert theirs[case]["size"] == {"shortest_edge": 800, "longest_edge": 1333}
    assert theirs[case]["labels"] == config.num_labels and theirs[case]["queries"] == config.num_queries
    assert theirs[case]["processor"].startswith("DeformableDetrImageProcessor")
