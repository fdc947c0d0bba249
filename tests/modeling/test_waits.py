"""What a program would wait for a GPU for, and launches there, counted on a pretended one."""

import pytest
import torch
from support.pretended_gpu import on_gpu, pretended_gpu
from support.small_detector import small_config

from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor

VARIANTS = [{}, {"two_stage": False}, {"two_stage": False, "with_box_refine": False}]


@pytest.fixture
def mask(pixels) -> torch.Tensor:
    mask = torch.ones(pixels.shape[0], *pixels.shape[-2:], dtype=torch.int64)
    mask[1, :, 100:] = 0
    return mask


@pytest.mark.parametrize("changes", VARIANTS)
def test_training_step_waits_for_the_matching_alone(changes, pixels, mask, targets):
    torch.manual_seed(0)
    model = DeformableDetrRefineForObjectDetection(small_config(**changes)).train()
    expected = model(pixels, mask, labels=targets).loss
    on_gpu(model)
    with pretended_gpu() as counts:
        loss = model(on_gpu(pixels), on_gpu(mask), labels=on_gpu(targets)).loss
        loss.backward()
    del counts["launch"]
    assert counts == {"copy down": 1, "copy up": 1}
    torch.testing.assert_close(loss.held, expected, rtol=1e-6, atol=0)


def test_labels_on_the_cpu_are_moved(pixels, mask, targets):
    model = on_gpu(DeformableDetrRefineForObjectDetection(small_config()).train())
    with pretended_gpu():
        assert model(on_gpu(pixels), on_gpu(mask), labels=targets).loss.held.isfinite()


def test_inference_waits_for_its_detections_alone(pixels, mask):
    model = on_gpu(DeformableDetrRefineForObjectDetection(small_config()).eval())
    processor = DeformableDetrRefineImageProcessor()
    with pretended_gpu() as counts, torch.no_grad():
        outputs = model(on_gpu(pixels), on_gpu(mask))
        assert not {name for name in counts if name != "launch"}
        processor.post_process_object_detection(outputs, 0.5, [(128, 160)] * len(pixels))
    del counts["launch"]
    assert counts == {"copy down": 1, "copy up": 1}


def test_frozen_norms_are_folded_at_once_and_anew_in_each_forward(pixels):
    model = on_gpu(DeformableDetrRefineForObjectDetection(small_config()).eval())
    body, launches, logits = model.model.backbone.body, [], []

    def forward():
        with pretended_gpu() as counts, torch.no_grad():
            logits.append(model(on_gpu(pixels)).logits.held)
        launches.append(counts["launch"])

    forward()
    forward()
    norms = [module for module in body.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with pretended_gpu():
        norms[0].weight.data.mul_(2)  # as loaders and moving averages write
    forward()
    body.register_forward_pre_hook(lambda body, args: None)  # might bring the parameters: each conv computes its own
    forward()
    assert launches[3] - launches[2] == 5 * (len(norms) - 1) and launches[1] == launches[2]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[2], logits[3])
    assert not torch.equal(logits[1], logits[2])
