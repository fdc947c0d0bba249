"""Converted checkpoints of the other code bases against what those code bases themselves computed."""

import shutil
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.goldens_mmdet import NO_DROPOUT
from support.goldens_other import NAMES, TINY, other_arrays, other_batch, write_checkpoint

from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.conversion import convert_checkpoint
from deformable_detr_refine.conversion.code_bases import CODE_BASES

KINDS = {"original": "original", "detrex": "detrex", "stock": "transformers"}
CASES = [name if name in TINY else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
# Their names of losses, ours; of a layer they have '_N' at the end, we 'dN.' at the beginning.
LOSSES = {"ce": "cls", "class": "cls", "bbox": "bbox", "giou": "iou"}


class Golden(NamedTuple):
    """A golden's converted model, its image processor, and all that it computes of the padded batch, losses too."""

    name: str
    model: DeformableDetrRefineForObjectDetection
    processor: DeformableDetrRefineImageProcessor
    output: Any


@pytest.fixture(scope="module", params=CASES)
def golden(request, tmp_path_factory):
    """One after another, so that a single one takes memory and disk at a time."""
    folder = tmp_path_factory.mktemp(request.param)
    report = convert_checkpoint(write_checkpoint(request.param, folder / "source"), folder / "model")
    assert report.code_base == CODE_BASES[KINDS[request.param.partition("_")[0]]].title
    model = DeformableDetrRefineForObjectDetection.from_pretrained(folder / "model").eval()
    processor = DeformableDetrRefineImageProcessor.from_pretrained(folder / "model")
    with torch.no_grad():
        asked = {"output_hidden_states": True, "output_proposals": True}
        output = model(**batch_of(request.param), labels=labels_of(request.param), **asked)
    yield Golden(request.param, model, processor, output)
    shutil.rmtree(folder)


def test_padded_batch_gives_the_logits_and_boxes(golden):
    expected, output = other_arrays(golden.name), golden.output
    step = int(expected["memory_step"])
    assert output.encoder_last_hidden_state[:, ::step].numpy() == pytest.approx(expected["memory_sample"], abs=1e-4)
    order = matched(output, expected["init_reference"])
    for image in range(2):
        logits = output.intermediate_logits[:, image, order[image]][:, expected["queries"]]
        boxes = output.intermediate_pred_boxes[:, image, order[image]][:, expected["box_queries"]]
        assert logits.numpy() == pytest.approx(expected["logits"][:, image], abs=1e-4)
        assert boxes.numpy() == pytest.approx(expected["boxes"][:, image], abs=1e-4)
    if "enc_logits" in expected:
        tokens = expected["enc_tokens"]
        assert output.encoder_logits[:, tokens].numpy() == pytest.approx(expected["enc_logits"], abs=1e-4)
        assert output.encoder_pred_boxes[:, tokens].numpy() == pytest.approx(expected["enc_boxes"], abs=1e-4)


def test_detections_are_the_code_bases(golden):
    name, model, processor, output = golden
    expected, sizes = other_arrays(name), photo_sizes(name)
    if name.startswith("detrex"):  # it evaluates one image at a time
        results = [
            processor.post_process_object_detection(alone(model, name, image), 0.0, sizes[image : image + 1])[0]
            for image in range(2)
        ]
    else:
        results = processor.post_process_object_detection(output, 0.0, sizes)
    for image, (result, size) in enumerate(zip(results, sizes, strict=True)):
        scores, labels, boxes = (expected[f"det{image}_{key}"] for key in ("scores", "labels", "boxes"))
        assert result["scores"].numpy() == pytest.approx(scores, abs=1e-4)
        # Scores closer than the tolerance may change places, so boxes are compared as a set: by label, then nearest.
        sides = torch.tensor(size).flip(0).repeat(2)
        ours = torch.cat((10 * result["labels"][:, None], result["boxes"] / sides), -1).double()
        theirs = torch.from_numpy(np.concatenate((10 * labels[:, None], boxes / sides.numpy()), -1)).double()
        distance = torch.cdist(ours, theirs, p=torch.inf)
        assert distance.amin(0).max() < 1e-4 and distance.amin(1).max() < 1e-4


def test_losses_and_gradients_are_the_code_bases(golden):
    """Of the real size one forward pass serves all three tests; the tiny ones train."""
    name, model, _, output = golden
    expected = other_arrays(name)
    if name in TINY:
        model = without_dropout(model)
        output = model(**batch_of(name), labels=labels_of(name))
    weights = {"cls": 1, "bbox": 5, "iou": 2} if name.startswith("stock") else {}
    terms = {}
    for key, value in expected.items():
        if key.startswith("loss:") and "cardinality" not in key:
            kind, _, layer = key.removeprefix("loss:loss_").partition("_")
            kind = LOSSES[kind]
            start = {"": "", "enc": "enc_"}.get(layer, f"d{layer}.")
            terms[f"{start}loss_{kind}"] = float(value) * weights.get(kind, 1)
    assert {term: output.loss_dict[term].item() for term in terms} == pytest.approx(terms, rel=1e-4)
    if name.startswith("stock"):
        # It has no loss for the first stage.
        first = sum(term.item() for key, term in output.loss_dict.items() if key.startswith("enc_"))
        assert output.loss.item() - first == pytest.approx(float(expected["loss_total"]), rel=1e-4)
        return
    assert output.loss_dict.keys() == terms.keys()
    assert output.loss.item() == pytest.approx(float(expected["loss_total"]), rel=1e-4)
    if "grad_names" not in expected:
        return
    output.loss.backward()
    gradients = gradients_by_their_names(name, model)
    norms = dict(zip(expected["grad_names"].tolist(), expected["grad_norms"].tolist(), strict=True))
    assert not gradients.keys() & set(expected["no_grad_names"].tolist())
    # With boxes at the edge one tensor of detrex's stands on a kink: ours in fp64 is theirs.
    tolerance = 0.1 if name.endswith("_edge") else 1e-2
    assert {key: gradients[key].norm().item() for key in norms} == pytest.approx(norms, rel=tolerance, abs=1e-6)


def batch_of(name):
    return other_batch("tiny" if name in TINY else "r50")


def labels_of(name):
    arrays = other_arrays(name)
    return [
        {
            "class_labels": torch.from_numpy(arrays[f"target{image}_labels"]),
            "boxes": torch.from_numpy(arrays[f"target{image}_boxes"]),
        }
        for image in range(2)
    ]


def photo_sizes(name):
    from support.goldens_mmdet import golden_arrays

    arrays = golden_arrays(f"other/{'tiny' if name in TINY else 'r50'}_inputs")
    return [tuple(arrays[f"ori{image}"].tolist()) for image in range(2)]


def alone(model, name, image):
    """The model's output for one image of the batch, without padding."""
    batch = batch_of(name)
    mask = batch["pixel_mask"][image]
    pixels = batch["pixel_values"][image, :, : int(mask[:, 0].sum()), : int(mask[0].sum())]
    with torch.no_grad():
        return model(pixels[None])


def matched(output, expected):
    """Query order that makes our initial references theirs: near-equal scores may swap two proposals."""
    distance = torch.cdist(torch.from_numpy(expected), output.initial_reference_points, p=1)
    assert distance.amin(-1).max() < 1e-4
    order = distance.argmin(-1)  # (B, Q)
    assert all(len(set(row.tolist())) == len(row) for row in order)
    return order


def without_dropout(model):
    """A copy of a model that trains without dropout."""
    config = type(model.config).from_dict({**model.config.to_dict(), **NO_DROPOUT})
    copied = DeformableDetrRefineForObjectDetection(config)
    copied.load_state_dict(model.state_dict())
    return copied.train()


def gradients_by_their_names(name, model):
    """Gradients of trained parameters, under the names of the code base."""
    from deformable_detr_refine.conversion.weights import common_from_ours, theirs_from_common

    table = CODE_BASES[KINDS[name.partition("_")[0]]].names
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return theirs_from_common(common_from_ours(gradients, model.config, table), model.config, table)
