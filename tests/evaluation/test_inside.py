"""What is drawn of a detector's inside: coordinates, above all, and that they are the model's own."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image

from ddetr.default_model import default_model
from deformable_detr_refine import DeformableDetrRefineConfig, DeformableDetrRefineForObjectDetection
from deformable_detr_refine.evaluation.inside.attention_plot import plot_query, plot_token
from deformable_detr_refine.evaluation.inside.inside import AttentionSamples, look_inside
from deformable_detr_refine.evaluation.inside.panels import DPI, PANEL, Panels, whole, window_around
from deformable_detr_refine.evaluation.inside.refinement_plot import plot_proposals, plot_refinement
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.modeling.attention import DeformableAttention

# Padded into one batch, they fill its width or its height only.
SIZES = [(120, 60), (60, 100)]


@pytest.fixture(scope="module")
def small(saved_small):
    return load_detector(str(saved_small), "cpu")


@pytest.fixture(scope="module")
def photos():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


@pytest.fixture(scope="module")
def cells(samples):
    """A trained detector's inside, and the photo's."""
    model, processor = load_detector(str(default_model()), "cpu")
    (inside,) = look_inside(model, processor, [samples / "BloodImage_00222.jpg"])
    return inside


@pytest.fixture(scope="module", params=["two-stage", "refine", "plain"])
def family(request, small):
    """A detector of each family."""
    model, processor = small
    if request.param == "two-stage":
        return model, processor
    values = {**model.config.to_dict(), "two_stage": False, "with_box_refine": request.param == "refine"}
    torch.manual_seed(0)
    return DeformableDetrRefineForObjectDetection(DeformableDetrRefineConfig(**values)).eval(), processor


def without_offsets(model):
    """The model, looking exactly at its reference points."""
    model = deepcopy(model)
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            torch.nn.init.zeros_(module.sampling_offsets.weight)
            torch.nn.init.zeros_(module.sampling_offsets.bias)
    return model


def middles(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def test_without_offsets_every_sample_is_in_the_middle_of_what_the_layer_starts_from(family, photos):
    model, processor = family
    for inside in look_inside(without_offsets(model), processor, photos):
        for query in (0, 7, 19):
            points = inside.query_samples(query).points
            for layer, start in enumerate(inside.layer_starts(query)):
                middle = start if len(start) == 2 else middles(start)
                assert np.abs(points[layer] - middle).max() < 1e-3


def test_without_offsets_a_token_looks_at_its_own_cell_in_every_level(small, photos):
    model, processor = small
    for inside in look_inside(without_offsets(model), processor, photos):
        for x, y, level in ((5.0, 5.0, 0), (40.0, 30.0, 1), (20.0, 50.0, 2)):
            token = inside.token_at(x, y, level)
            assert np.abs(inside.token_samples(token).points - inside.token_centre(token)).max() < 1e-3


def test_offsets_of_queries_count_in_the_sides_of_their_boxes(small, photos):
    """A constant offset of (P, 0) is half a box's width, whatever the image and the padding."""
    model, processor = deepcopy(small[0]), small[1]
    for layer in model.model.decoder.layers:
        offsets, points = layer.cross_attn.sampling_offsets, layer.cross_attn.points
        torch.nn.init.zeros_(offsets.weight)
        offsets.bias.data = torch.tensor([float(points), 0.0]).repeat(offsets.out_features // 2)
    for inside in look_inside(model, processor, photos):
        samples = inside.query_samples(3)
        for layer, (_, y0, x1, y1) in enumerate(inside.layer_starts(3)):
            expected = np.array([x1, (y0 + y1) / 2])
            assert np.abs(samples.points[layer] - expected).max() < 1e-3


def test_a_token_is_the_one_whose_cell_holds_the_point(small, photos):
    model, processor = small
    for inside in look_inside(model, processor, photos):
        for x, y in ((1.0, 1.0), (inside.image.width - 1.0, inside.image.height - 1.0), (33.0, 21.0)):
            for level in range(len(inside.level_shapes)):
                # Of the cells that hold the image, not of the padded ones.
                columns, rows = (inside.valid_ratios[level] * torch.tensor(inside.level_shapes[level][::-1])).tolist()
                cell = np.array([inside.image.width / columns, inside.image.height / rows])
                centre = inside.token_centre(inside.token_at(x, y, level))
                assert (np.abs(centre - np.array([x, y])) <= cell / 2 + 1e-3).all()


def test_the_last_boxes_are_the_detections(small, photos):
    model, processor = small
    with torch.inference_mode():
        outputs = model(**processor(images=photos, return_tensors="pt"))
    results = processor.post_process_object_detection(outputs, 0.0, [(h, w) for w, h in SIZES])
    for inside, result in zip(look_inside(model, processor, photos), results, strict=True):
        query = inside.best_queries(0.0)[0]
        box = np.clip(inside.layer_boxes[-1, query], 0, inside.image.size * 2)
        assert result["labels"][0] == inside.label(query)
        assert np.abs(box - result["boxes"][0].numpy()).max() < 1e-3
        assert abs(inside.layer_scores[-1, query].max() - result["scores"][0]) < 1e-6


def test_the_first_proposals_are_the_queries(small, photos):
    model, processor = small
    for inside in look_inside(model, processor, photos):
        proposals, count = inside.proposals, len(inside.start)
        assert np.abs(proposals.boxes[:count] - inside.start).max() < 1e-3
        assert (np.diff(proposals.scores) <= 0).all()
        assert sorted(proposals.tokens) == list(range(sum(h * w for h, w in inside.level_shapes)))


def test_with_a_box_head_that_makes_no_step_proposals_are_their_anchors(small, photos):
    model, processor = deepcopy(small[0]), small[1]
    torch.nn.init.zeros_(model.model.first_stage.box_head[-1].weight)
    torch.nn.init.zeros_(model.model.first_stage.box_head[-1].bias)
    for inside in look_inside(model, processor, photos):
        for query in range(5):
            assert np.abs(inside.anchor(query) - inside.start[query]).max() < 1e-2


def test_a_detector_without_first_stage_proposes_nothing(family, photos):
    model, processor = family
    (inside, _) = look_inside(model, processor, photos)
    if model.config.two_stage:
        return
    assert inside.proposals is None and inside.anchor(0) is None
    with pytest.raises(ValueError, match="no first stage"):
        plot_proposals(inside)


def test_the_weights_of_a_head_sum_to_one(cells):
    for samples in (cells.query_samples(0), cells.token_samples(5)):
        assert np.allclose(samples.weights.sum((2, 3)), 1, atol=1e-5)
        assert np.allclose(samples.level_shares().sum(1), 1, atol=1e-5)


def test_a_trained_detector_looks_at_its_objects(cells):
    """The samples' weighted centre is inside the box that the layer gives, for every good detection."""
    queries = cells.best_queries(0.5)
    assert len(queries) > 4
    for query in queries:
        for (x, y), (x0, y0, x1, y1) in zip(
            cells.query_samples(query).centre(), cells.layer_boxes[:, query], strict=True
        ):
            assert x0 < x < x1 and y0 < y < y1


def test_the_centre_is_weighted():
    points = np.array([[0.0, 0.0], [10.0, 20.0]]).reshape(1, 1, 1, 2, 2)
    assert AttentionSamples(points, np.array([0.25, 0.75]).reshape(1, 1, 1, 2)).centre().tolist() == [[7.5, 15.0]]


def test_every_family_is_drawn(family, photos):
    model, processor = family
    inside, _ = look_inside(model, processor, photos)
    pictures = [plot_query(inside, 2), plot_token(inside, 10, 10, 1), plot_refinement(inside, 2, (10, 10, 30, 40))]
    if model.config.two_stage:
        pictures.append(plot_proposals(inside, 0.0))
    for picture in pictures:
        assert picture.mode == "RGB" and len(picture.convert("L").getcolors()) > 50


def test_what_is_drawn_stands_at_its_pixel():
    """Red at a pixel of the image must come out where the axes say that this pixel is."""
    image = Image.new("RGB", (80, 60), "white")
    image.paste("red", (50, 20, 60, 30))
    panels = Panels(1, "heading", "text")
    axes = panels.image(0, image, whole(image), "title")
    picture = np.asarray(panels.picture()).astype(int)
    red = np.argwhere((picture[..., 0] > 200) & (picture[..., 1:] < 60).all(-1))
    expected = axes.transData.transform((55, 25))
    assert np.abs(red.mean(0) - (picture.shape[0] - expected[1], expected[0])).max() < 2
    assert abs(np.ptp(red[:, 1]) - PANEL * DPI * 10 / 80) < 6


def test_names_with_marks_of_formulas_are_drawn_as_they_are(cells):
    odd = deepcopy(cells)
    object.__setattr__(odd, "id2label", {0: "$x_", 1: "a$b$ \\frac", 2: "{%"})
    for picture in (plot_query(odd, 1), plot_refinement(odd, 1), plot_proposals(odd)):
        assert picture.width > 1000


def test_windows_leave_the_image_only_for_what_is_drawn_there():
    image = Image.new("RGB", (200, 100))
    x0, y0, x1, y1 = window_around(np.array([[190.0, 90.0], [199.0, 99.0]]), image)
    assert x1 == 200 and y1 == 100 and x1 - x0 == y1 - y0
    assert window_around(np.array([[0.0, 0.0], [200.0, 100.0]]), image) == (0, -50, 200, 150)
    x0, y0, x1, y1 = window_around(np.array([[-10.0, 20.0], [30.0, 60.0]]), image)
    assert x0 < -10 and x1 > 30 and 0 <= y0 < 20 and y1 > 60


def test_what_is_not_there_is_told(cells):
    with pytest.raises(ValueError, match=r"no query 100: the detector has 100"):
        plot_query(cells, 100)
    with pytest.raises(ValueError, match=r"no query -1"):
        plot_refinement(cells, -1)
    with pytest.raises(ValueError, match=r"outside the image of 640x480"):
        plot_token(cells, 700, 10)
    with pytest.raises(ValueError, match=r"no level 4"):
        plot_token(cells, 10, 10, 4)
