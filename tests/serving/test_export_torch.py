"""A traced detector takes every image size and batch, and computes what the model computes."""

import zipfile

import pytest
import torch
from support.goldens_mmdet import VARIANTS
from support.small_detector import save_small_detector, small_config

from ddetr.main import main
from deformable_detr_refine import DeformableDetrRefineForObjectDetection, load_image, use_backend
from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.serving.export.proof import Proof
from deformable_detr_refine.serving.export.torch_export import load_torch
from deformable_detr_refine.serving.export.tracing import trace

pytestmark = pytest.mark.slow

# (batch, height, width), none of them the example's; the last is as low as a program takes.
SHAPES = [(1, 200, 333), (3, 97, 131), (2, 65, 256)]
SIZE = {"shortest_edge": 96, "longest_edge": 160}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_small_detector(tmp_path_factory.mktemp("saved") / "detector", SIZE)


@pytest.fixture(scope="module")
def photos(samples) -> list[str]:
    return [str(samples / "10.jpg"), str(samples / "BloodImage_00000.jpg")]


def batch_of(images: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pixels; every image after the first is smaller than the canvas."""
    pixels = torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(height))
    mask = torch.ones(images, height, width, dtype=torch.int64)
    for index in range(1, images):
        mask[index, :, width - 20 * index :] = 0
    return pixels * mask.unsqueeze(1), mask


def assert_same_for_every_size(program, detector) -> None:
    for shape in SHAPES:
        pixels, mask = batch_of(*shape)
        with torch.no_grad():
            logits, boxes = program(pixels, mask)
            expected = detector(pixels, mask)
        torch.testing.assert_close(logits, expected.logits, rtol=0, atol=2e-5)
        torch.testing.assert_close(boxes, expected.pred_boxes, rtol=0, atol=2e-6)


def test_program_is_the_model_for_every_size():
    """With queries of its own and grid_sample. With two stages, refinement and all levels: below by the operator."""
    torch.manual_seed(0)
    config = small_config(**VARIANTS["plain"], num_feature_levels=2)
    detector = DeformableDetrRefineForObjectDetection(config).eval()
    with use_backend("reference"):
        program = trace(detector)
    assert not any("deformable_attention" in str(node.target) for node in program.graph.nodes)
    assert_same_for_every_size(program.module(), detector)


def test_exported_file_finds_what_the_model_finds(saved, photos, samples, tmp_path, capsys):
    output = tmp_path / "detector.pt2"
    assert main(["export", "--to", "torch", str(saved), str(output), "--images", *photos]) == 0
    assert "detections are the same in images of" in capsys.readouterr().out
    network, model = load_torch(output), Detector(saved, "cpu")
    image = load_image(samples / "11.jpg").resize((300, 200))
    outputs = network.forward(network.processor(images=[image], return_tensors="pt"))
    (found,) = network.processor.post_process_object_detection(outputs, 0.0, [(200, 300)])
    (expected,) = model.detect([image])
    torch.testing.assert_close(found["scores"], torch.tensor(expected.scores), rtol=0, atol=1e-5)
    assert network.id2label == expected.id2label

    def program(pixels, mask):
        outputs = network.forward({"pixel_values": pixels, "pixel_mask": mask})
        return outputs.logits, outputs.pred_boxes

    assert_same_for_every_size(program, DeformableDetrRefineForObjectDetection.from_pretrained(saved).eval())
    assert list(tmp_path.iterdir()) == [output]
    with zipfile.ZipFile(output) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"deformable_attention" in content
    assert str(saved.parent).encode() not in content and b"modeling_deformable_detr_refine.py" not in content


def test_a_proof_on_images_without_objects_says_so():
    proof = Proof([(64, 96)], 0.0, 0.0, 20, 0, 20, model_ap=-1.0, exported_ap=-1.0, ap_images=3)
    assert str(proof).endswith("; AP was not compared, as 3 images have no object")
