"""The model against what MMDetection 3.1.0 itself computed."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from support.golden_weights import golden_state_dict
from support.goldens_mmdet import (
    NO_DROPOUT,
    SIZES,
    VARIANTS,
    golden_arrays,
    golden_batch,
    golden_config,
    golden_labels,
    golden_meta,
    golden_model,
)

from deformable_detr_refine import (
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
    use_backend,
)
from deformable_detr_refine.conversion.mmdet.weights import weights_from_3x, weights_to_3x

SAMPLES = Path(__file__).parents[2] / "samples" / "images"
TRAINED = [("tiny", variant) for variant in VARIANTS] + [("r50", "refine_twostage")]


def matched_by_reference(output, expected):
    """Query order that makes our initial references the reference's: near-equal scores may swap two proposals."""
    distance = torch.cdist(torch.from_numpy(expected), output.initial_reference_points, p=1)
    assert distance.amin(-1).max() < 1e-4
    order = distance.argmin(-1)  # (B, Q)
    assert all(len(set(row.tolist())) == len(row) for row in order)
    return order


@cache
def golden_output(size, variant, backend=None):
    with torch.no_grad(), use_backend(backend):
        return golden_model(size, variant)(**golden_batch(f"{size}_inputs", 2), output_hidden_states=True)


CASES = [(size, variant, None) for size in SIZES for variant in VARIANTS] + [("tiny", "refine_twostage", "reference")]


@pytest.mark.parametrize(("size", "variant", "backend"), CASES)
def test_padded_batch_gives_the_reference_logits_and_boxes(size, variant, backend):
    expected = golden_arrays(f"{size}_{variant}_detect")
    output = golden_output(size, variant, backend)
    assert output.encoder_last_hidden_state[:, ::97].numpy() == pytest.approx(expected["memory_sample"], abs=1e-4)
    order = matched_by_reference(output, expected["init_reference"])
    for image in range(2):
        logits = output.intermediate_logits[:, image, order[image]]
        boxes = output.intermediate_pred_boxes[:, image, order[image]]
        assert logits.numpy() == pytest.approx(expected["logits"][:, image], abs=1e-4)
        assert boxes.numpy() == pytest.approx(expected["boxes"][:, image], abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_detections_are_the_reference_ones(size, variant):
    expected = golden_arrays(f"{size}_{variant}_detect")
    output = golden_output(size, variant, None)
    results = DeformableDetrRefineImageProcessor().post_process_object_detection(
        output, threshold=0.0, target_sizes=[tuple(shape[:2]) for shape in expected["ori_shapes"]]
    )
    for image, result in enumerate(results):
        assert result["scores"].numpy() == pytest.approx(expected[f"det{image}_scores"], abs=1e-5)
        # Scores closer than the tolerance may change places, so boxes are compared as a set: by label, then nearest.
        ours = torch.cat((1e6 * result["labels"][:, None], result["boxes"]), -1)
        theirs = np.concatenate((1e6 * expected[f"det{image}_labels"][:, None], expected[f"det{image}_bboxes"]), -1)
        distance = torch.cdist(ours.double(), torch.from_numpy(theirs).double(), p=torch.inf)
        assert distance.amin(0).max() < 1e-2  # pixels of the original
        assert distance.amin(1).max() < 1e-2


@pytest.mark.parametrize(("size", "variant"), TRAINED)
def test_losses_and_gradients_are_the_reference_ones(size, variant):
    expected = golden_arrays(f"{size}_{variant}_train")
    images = 3 if size == "tiny" else 2
    batch = golden_batch("tiny_inputs" if size == "tiny" else "r50_train_inputs", images)
    model = golden_model(size, variant, **NO_DROPOUT).train()
    output = model(**batch, labels=golden_labels(expected, images))
    output.loss.backward()

    terms = {name.removeprefix("loss:"): float(v) for name, v in expected.items() if name.startswith("loss:")}
    assert {name: term.item() for name, term in output.loss_dict.items()} == pytest.approx(terms, rel=1e-4)
    assert output.loss.item() == pytest.approx(float(expected["loss_total"]), rel=1e-4)

    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = weights_to_3x(gradients, model.config)
    norms = dict(zip(expected["grad_names"].tolist(), expected["grad_norms"].tolist(), strict=True))
    assert norms.keys() == {name for name in theirs if name in norms}
    assert {name: theirs[name].norm().item() for name in norms} == pytest.approx(norms, rel=1e-3, abs=1e-7)
    frozen = set(expected["no_grad_names"].tolist())
    assert frozen.isdisjoint(theirs)
    heads = dict(zip(expected["grad_names"].tolist(), expected["grad_head"], strict=True))
    for name, head in heads.items():
        count = min(len(head), theirs[name].numel())
        # A gradient's first values, against the scale of the whole: sums of many terms that cancel.
        scale = norms[name] / theirs[name].numel() ** 0.5
        assert theirs[name].flatten()[:count].numpy() == pytest.approx(head[:count], rel=1e-2, abs=1e-2 * scale + 1e-7)


def test_flagship_has_the_reference_parameters():
    model = DeformableDetrRefineForObjectDetection(golden_config("r50"))
    assert sum(p.numel() for p in model.parameters()) == 41_213_836
    assert sum(v.numel() for v in model.state_dict().values()) == 41_267_009


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_go_there_and_back(variant):
    theirs = golden_state_dict(f"tiny_{variant}")
    config = golden_config("tiny", variant)
    back = weights_to_3x(weights_from_3x(theirs, config), config)
    assert list(back) == list(theirs)
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


SCALES = {800: {"shortest_edge": 800, "longest_edge": 1333}, 200: {"shortest_edge": 200, "longest_edge": 333}}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("image", golden_meta()["images"])
def test_resized_bytes_are_within_one_grey_level(image, scale):
    expected = {
        name.partition(":")[2]: array
        for name, array in golden_arrays("preprocess").items()
        if name.startswith(f"{Path(image).stem}@{scale}:")
    }
    processor = DeformableDetrRefineImageProcessor(size=SCALES[scale], do_normalize=False, do_rescale=False)
    pixels = processor(str(SAMPLES / image), return_tensors="pt").pixel_values[0]
    assert pixels.shape == (3, *expected["shape"])
    rows, columns = expected["yx"].T
    ours = pixels[:, rows, columns].T.numpy().astype(int)
    assert np.abs(ours - expected["rgb"].astype(int)).max() <= 1
    assert pixels.float().mean((1, 2)).numpy() == pytest.approx(expected["mean"], abs=0.5)
