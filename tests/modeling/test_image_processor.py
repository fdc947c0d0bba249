"""The image processor: sizes, kinds of input, annotations, padding, and the way back to detections."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torchvision.transforms.v2 import functional as tvF
from transformers import AutoImageProcessor

from deformable_detr_refine import DeformableDetrRefineImageProcessor

SMALL = {"shortest_edge": 60, "longest_edge": 100}


@pytest.fixture
def processor():
    return DeformableDetrRefineImageProcessor(size=SMALL)


@pytest.fixture
def picture() -> Image.Image:
    """80 wide, 48 high."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((80, 48), Image.BICUBIC)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1067)),
        (666, 499, (1068, 800)),
        (200, 2000, (133, 1333)),
        (800, 1333, (800, 1333)),
        (1, 1, (800, 800)),
    ],
)
def test_sizes_are_those_of_mmcv(height, width, expected):
    assert DeformableDetrRefineImageProcessor().resized_shape(height, width) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"max_height": 480, "max_width": 480}, {(663, 943): (337, 480), (943, 663): (480, 337), (48, 80): (288, 480)}),
        ({"max_height": 100, "max_width": 400}, {(50, 100): (100, 200), (50, 300): (67, 400)}),
        ({"height": 30, "width": 50}, {(663, 943): (30, 50)}),
        (60, {(48, 80): (60, 100), (10, 1000): (13, 1333)}),
        ({"shortest_edge": 60}, {(48, 80): (60, 100), (10, 1000): (60, 6000)}),
        ({"longest_edge": 100}, {(48, 80): (60, 100), (10, 1000): (1, 100)}),
    ],
    ids=str,
)
def test_size_has_the_forms_of_transformers(size, expected, tmp_path, picture):
    processor = DeformableDetrRefineImageProcessor(size=size)
    assert {shape: processor.resized_shape(*shape) for shape in expected} == expected
    given_in_the_call = DeformableDetrRefineImageProcessor()(picture, size=size, return_tensors="pt").pixel_values
    assert torch.equal(processor(picture, return_tensors="pt").pixel_values, given_in_the_call)
    processor.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).size == processor.size


@pytest.mark.parametrize("rule", ["transformers", "original"])
def test_sides_within_a_maximum_are_those_of_transformers(rule):
    from transformers.image_utils import get_image_size_for_max_height_width

    processor = DeformableDetrRefineImageProcessor(size={"max_height": 301, "max_width": 407}, size_rule=rule)
    for shape in ((663, 943), (943, 663), (100, 137), (301, 407), (7, 900)):
        assert processor.resized_shape(*shape) == get_image_size_for_max_height_width(shape, 301, 407)


@pytest.mark.parametrize(
    "size", [{"shortest_edge": 0}, {"height": 5}, {"max_height": 5, "max_width": -5}, {"longest_edge": 1.5}, {}, True]
)
def test_what_is_no_size_is_refused_at_once(size, picture):
    with pytest.raises(ValueError, match="size"):
        DeformableDetrRefineImageProcessor(size=size)
    with pytest.raises((ValueError, StrictDataclassError), match="size"):
        DeformableDetrRefineImageProcessor()(picture, size=size, return_tensors="pt")


def test_every_kind_of_input_gives_the_same(processor, picture, tmp_path):
    picture.save(tmp_path / "picture.png")
    array = np.asarray(picture).copy()
    expected = processor(picture, return_tensors="pt").pixel_values
    assert expected.shape == (1, 3, 60, 100)
    for same in (
        array,
        array.transpose(2, 0, 1).copy(),
        torch.from_numpy(array),
        torch.from_numpy(array).permute(2, 0, 1),
        str(tmp_path / "picture.png"),
        tmp_path / "picture.png",
        [picture],
    ):
        assert torch.equal(processor(same, return_tensors="pt").pixel_values, expected)


def test_values_that_are_not_grey_levels_are_refused(processor, picture):
    array = np.asarray(picture)
    with pytest.raises(ValueError, match=r"images\[0\], of torch.float32, .* from 0 to 1, .* do_rescale=False"):
        processor(array.astype(np.float32) / array.max(), return_tensors="pt")
    with pytest.raises(ValueError, match=r"images\[1\], of torch.uint16, has values"):
        processor([array, array.astype(np.uint16) * 257], return_tensors="pt")
    with pytest.raises(ValueError, match=r"torch.int16, has values from -"):
        processor(array.astype(np.int16) - 200, return_tensors="pt")
    for do_rescale in (True, False):
        with pytest.raises(ValueError, match=r"torch.bool, holds no grey levels"):
            processor(array > 100, do_rescale=do_rescale, return_tensors="pt")
        for value in (np.nan, np.inf, -np.inf):
            broken = array.astype(np.float32)
            broken[3, 4, 1] = value
            with pytest.raises(ValueError, match=r"torch.float32, has values that are not finite"):
                processor(broken, do_rescale=do_rescale, return_tensors="pt")
    with pytest.raises(ValueError, match=r"is empty: its shape is \(3, 0, 5\)"):
        processor(torch.zeros(3, 0, 5, dtype=torch.uint8), return_tensors="pt")
    floats = processor(array.astype(np.float32), return_tensors="pt").pixel_values
    torch.testing.assert_close(floats, processor(array.copy(), return_tensors="pt").pixel_values, rtol=0, atol=0.02)
    scaled = processor(array.astype(np.float32) / 255, do_rescale=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(scaled, floats, rtol=0, atol=1e-5)


def test_image_too_thin_to_resize_is_refused(processor):
    with pytest.raises(ValueError, match="5000x1 pixels is too thin"):
        processor(Image.new("RGB", (5000, 1)), return_tensors="pt")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_mode_of_pil_becomes_rgb(mode, processor, picture):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        expected = processor(picture.convert("L").convert("RGB"), return_tensors="pt").pixel_values
    else:
        image = picture.convert(mode)
        expected = processor(image.convert("RGB"), return_tensors="pt").pixel_values
    assert torch.allclose(processor(image, return_tensors="pt").pixel_values, expected, atol=0.02)


def test_file_is_turned_upright(processor, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert processor(str(tmp_path / "turned.jpg"), return_tensors="pt").pixel_values.shape == (1, 3, 100, 60)


def test_padding_goes_right_and_down_after_normalisation(processor, picture):
    tall = picture.transpose(Image.ROTATE_90)
    batch = processor([picture, tall], return_tensors="pt")
    assert batch.pixel_values.shape == (2, 3, 100, 100) and batch.pixel_mask.shape == (2, 100, 100)
    assert batch.pixel_mask[0, :60].all() and not batch.pixel_mask[0, 60:].any()
    assert batch.pixel_mask[1, :, :60].all() and not batch.pixel_mask[1, :, 60:].any()
    assert not batch.pixel_values[0, :, 60:].any()
    alone = processor(picture, return_tensors="pt").pixel_values[0]
    assert torch.equal(batch.pixel_values[0, :, :60], alone)


@pytest.mark.parametrize(
    "switches", [{}, {"do_rescale": False}, {"image_mean": 0.5, "image_std": 0.25}, {"image_mean": 0.5}], ids=str
)
def test_normalising_on_the_canvas_is_transformers_own(processor, picture, switches):
    images = [picture, picture.crop((3, 5, 60, 40))]
    inputs = processor(images, return_tensors="pt", **switches)
    apart = [processor(image, return_tensors="pt", do_pad=False, **switches).pixel_values[0] for image in images]
    assert inputs.pixel_values.is_contiguous(memory_format=torch.channels_last)
    for canvas, mask, alone in zip(inputs.pixel_values, inputs.pixel_mask.bool(), apart, strict=True):
        assert torch.equal(canvas[:, mask].reshape(alone.shape), alone)
        assert not canvas[:, ~mask].any()


def test_without_padding_unequal_images_are_refused(processor, picture):
    with pytest.raises(ValueError, match="do_pad=False"):
        processor([picture, picture.transpose(Image.ROTATE_90)], do_pad=False, return_tensors="pt")
    assert processor([picture] * 2, do_pad=False, return_tensors="pt").pixel_values.shape == (2, 3, 60, 100)


def test_resizing_is_bilinear_without_antialiasing(picture):
    processor = DeformableDetrRefineImageProcessor(
        size={"height": 24, "width": 31}, do_normalize=False, do_rescale=False
    )
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    ours = processor(picture, return_tensors="pt").pixel_values[0]
    assert torch.equal(ours, tvF.resize(pixels, [24, 31], antialias=False))
    smoothed = processor(picture, antialias=True, return_tensors="pt").pixel_values[0]
    assert torch.equal(smoothed, tvF.resize(pixels, [24, 31], antialias=True)) and not torch.equal(smoothed, ours)


def test_annotations_become_labels_of_the_image_itself(processor, picture):
    annotation = {
        "image_id": 7,
        "annotations": [
            {"bbox": [8, 12, 40, 24], "category_id": 3, "iscrowd": 0},
            {"bbox": [70, 40, 40, 40], "category_id": 1},  # clipped to 10 x 8
            {"bbox": [5, 5, 0, 9], "category_id": 2},  # no area
            {"bbox": [0, 0, 80, 48], "category_id": 4, "iscrowd": 1},
        ],
    }
    tall = picture.transpose(Image.ROTATE_90)
    batch = processor([picture, tall], [annotation, {"image_id": 8, "annotations": []}], return_tensors="pt")
    labels = batch.labels[0]
    assert labels["class_labels"].tolist() == [3, 1]
    expected = [[28 / 80, 24 / 48, 40 / 80, 24 / 48], [75 / 80, 44 / 48, 10 / 80, 8 / 48]]
    torch.testing.assert_close(labels["boxes"], torch.tensor(expected))
    assert labels["area"].tolist() == [960, 80] and labels["image_id"].tolist() == [7]
    assert labels["orig_size"].tolist() == [48, 80] and labels["size"].tolist() == [60, 100]
    assert batch.labels[1]["boxes"].shape == (0, 4) and batch.labels[1]["class_labels"].dtype == torch.int64


def test_annotations_that_do_not_fit_are_refused(processor, picture):
    with pytest.raises(ValueError, match="2 images came with 1 annotations"):
        processor([picture] * 2, {"image_id": 1, "annotations": []})
    with pytest.raises(ValueError, match="annotations are a dict, or a list with one per image, not 5"):
        processor(picture, 5)


def test_crowds_may_be_marked_in_any_type(processor, picture):
    marks = (
        None,
        0,
        False,
        0.0,
        np.int64(0),
        np.bool_(False),
        torch.tensor(0),
        1,
        True,
        np.uint8(1),
        torch.tensor([1]),
    )
    objects = [{"bbox": [1, 2, 30, 4], "category_id": n, "iscrowd": mark} for n, mark in enumerate(marks)]
    (labels,) = processor(picture, {"annotations": objects}, return_tensors="pt")["labels"]
    assert labels["class_labels"].tolist() == [n for n, mark in enumerate(marks) if not mark]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"image_id": 1, "boxes": []}, r"annotations\[1\] is not of the form"),
        ({"image_id": 1, "annotations": {"bbox": [[1, 2, 3, 4]], "category": [0]}}, r"is not of the form"),
        ([{"bbox": [1, 2, 3, 4], "category_id": 0}], r"annotations\[1\] is not of the form"),
        ("a.json", r"annotations\[1\] is not of the form"),
        ({"annotations": ["cat"]}, r"annotations\[1\], object 0 has no 'bbox' or no 'category_id'"),
        ({"image_id": 7, "annotations": [{"category_id": 0}]}, r"\(image_id 7\), object 0 has no 'bbox'"),
        ({"annotations": [{"bbox": [1, 2, 3, 4], "label": 0}]}, r"object 0 has no 'bbox' or no 'category_id'"),
        *[
            ({"annotations": [{"bbox": box, "category_id": 0}]}, r"object 0: bbox is \[x, y, width, height\]")
            for box in ([1, 2, 3], [1, 2, 3, 4, 5], [1, 2, float("nan"), 4], [1, 2, 3, float("inf")], "1234x", None, 5)
        ],
        *[
            ({"annotations": [{"bbox": [1, 2, 3, 4], "category_id": label}]}, "object 0: category_id must be a whole")
            for label in (None, "3", 2.5, True, float("nan"), [1, 2])
        ],
        ({"annotations": [{"bbox": [1, 2, 3, 4], "category_id": -1}]}, "category_id -1 is negative"),
        *[
            (
                {"annotations": [{"bbox": [1, 2, 3, 4], "category_id": 0, "iscrowd": crowd}]},
                "object 0: iscrowd is 0 or 1",
            )
            for crowd in ("0", "false", 2, float("nan"), [1], np.array([0, 1]))
        ],
        (
            {"image_id": "a.jpg", "annotations": []},
            r"annotations\[1\]\['image_id'\] must be a whole number, not 'a.jpg'",
        ),
        ({"image_id": 1.5, "annotations": []}, "must be a whole number, not 1.5"),
    ],
    ids=str,
)
def test_malformed_annotations_are_named_with_their_place(annotation, message, processor, picture):
    with pytest.raises(ValueError, match=message):
        processor([picture] * 2, [{"image_id": 1, "annotations": []}, annotation])


@pytest.mark.parametrize(
    "number", [int, np.int64, np.float64, np.array, torch.tensor, lambda n: np.array([n]), lambda n: torch.tensor([n])]
)
def test_numbers_of_numpy_and_torch_are_numbers(number, processor, picture):
    box = {"bbox": np.array([8, 12, 40, 24]), "category_id": number(3), "iscrowd": np.int64(0)}
    (labels,) = processor(picture, {"image_id": number(7), "annotations": (box,)}, return_tensors="pt").labels
    assert labels["class_labels"].tolist() == [3] and labels["area"].tolist() == [960]
    assert labels["image_id"].tolist() == [7]
    assert all(isinstance(value, torch.Tensor) for value in labels.values())


def test_round_trip_through_a_folder(processor, tmp_path, saved):
    changed = DeformableDetrRefineImageProcessor(size=SMALL, image_mean=[0.5, 0.5, 0.5], antialias=True)
    changed.save_pretrained(tmp_path)
    assert DeformableDetrRefineImageProcessor.from_pretrained(tmp_path).to_dict() == changed.to_dict()
    auto = AutoImageProcessor.from_pretrained(saved)
    assert type(auto) is DeformableDetrRefineImageProcessor and dict(auto.size)["longest_edge"] == 333


def outputs():
    """Two images, three queries, two classes: logits chosen so that the order of scores is known."""
    logits = torch.tensor([[[2.0, -9], [-9, 1], [0, -9]], [[-9, -9], [-9, 3], [2.5, -9]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.4, 0.4], [0.9, 0.9, 0.1, 0.1]]] * 2)
    return SimpleNamespace(logits=logits, pred_boxes=boxes)


def test_detections_are_sorted_clipped_and_in_pixels(processor):
    first, second = processor.post_process_object_detection(outputs(), 0.6, [(100, 200), (10, 20)])
    assert first["labels"].tolist() == [0, 1] and second["labels"].tolist() == [1, 0]
    torch.testing.assert_close(first["scores"], torch.tensor([2.0, 1.0]).sigmoid())
    torch.testing.assert_close(first["boxes"], torch.tensor([[50.0, 25, 150, 75], [0, 0, 60, 30]]))
    torch.testing.assert_close(second["boxes"], torch.tensor([[0.0, 0, 6, 3], [17, 8.5, 19, 9.5]]))


def test_top_k_counts_pairs_of_query_and_class(processor):
    results = processor.post_process_object_detection(outputs(), 0.0, torch.tensor([[1, 1], [1, 1]]), top_k=2)
    assert [len(result["scores"]) for result in results] == [2, 2]
    everything = processor.post_process_object_detection(outputs(), 0.0)
    assert [len(result["scores"]) for result in everything] == [6, 6]
    assert everything[0]["boxes"].max() <= 1


@pytest.mark.parametrize(
    "sizes",
    [
        [torch.tensor([100, 200]), torch.tensor([10, 20])],
        [np.array([100, 200]), (10, 20)],
        np.array([[100, 200], [10, 20]]),
        torch.tensor([[100, 200], [10, 20]]),
        [[100, 200], torch.Size([10, 20])],
    ],
)
def test_target_sizes_have_any_form(processor, sizes):
    expected = processor.post_process_object_detection(outputs(), 0.6, [(100, 200), (10, 20)])
    for found, other in zip(processor.post_process_object_detection(outputs(), 0.6, sizes), expected, strict=True):
        assert torch.equal(found["boxes"], other["boxes"])


def test_what_is_no_number_takes_no_place(processor):
    broken = outputs()
    broken.logits[0, 0] = torch.nan
    first, _ = processor.post_process_object_detection(broken, 0.0, top_k=1)
    torch.testing.assert_close(first["scores"], torch.tensor([1.0]).sigmoid())
    broken.logits[:] = torch.nan
    assert not any(len(found["scores"]) for found in processor.post_process_object_detection(broken, -1.0))


@pytest.mark.parametrize("sizes", [None, [], torch.zeros(0, 2)])
def test_no_images_have_no_detections(processor, sizes):
    empty = SimpleNamespace(logits=torch.zeros(0, 3, 2), pred_boxes=torch.zeros(0, 3, 4))
    assert processor.post_process_object_detection(empty, 0.5, sizes) == []


def test_no_image_is_one_sentence(processor):
    for annotations in (None, []):
        with pytest.raises(ValueError, match="There is no image to prepare"):
            processor([], annotations=annotations, return_tensors="pt")


def test_target_sizes_must_fit_the_batch(processor):
    with pytest.raises(ValueError, match="2 images came with 1 target sizes"):
        processor.post_process_object_detection(outputs(), 0.5, [(1, 1)])
    for no_pairs in ([(1, 1, 3), (1, 1, 3)], torch.ones(2)):
        with pytest.raises(ValueError, match="pairs of"):
            processor.post_process_object_detection(outputs(), 0.5, no_pairs)
