"""The report: one page without need of any other, safe against the names in a data set, whatever there is to show."""

import ast
import base64
import dataclasses
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from support.evaluated_images import one_image, random_images

from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics
from deformable_detr_refine.evaluation.metrics.matching import match
from deformable_detr_refine.evaluation.report import report
from deformable_detr_refine.evaluation.report.pictures import BEST, SIDE, WORST, choose_images
from deformable_detr_refine.evaluation.report.report import (
    CONFUSIONS,
    IN_MATRIX,
    origin,
    page_facts,
    useful_threshold,
    write_report,
)
from deformable_detr_refine.evaluation.report.training_curves import training_plots
from deformable_detr_refine.inference.detections import THRESHOLD

NAMES = ("a", "b", "c", "d")
VOID = {"meta", "img", "input", "br"}
HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} $\\frac{1}{$ \udc80\x00\u202e",
    "</style><svg onload=alert(1)>" * 20,
)


class Page(HTMLParser):
    """Elements with their attributes, the text outside scripts and styles, and the content of scripts."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements, self.open, self.text, self.scripts = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def write(images, folder, names=NAMES, **more) -> Page:
    return Page(write_report(images, coco_metrics(images, names), names, folder, **more))


def grey(image: EvaluatedImage) -> Image.Image:
    return Image.new("RGB", image.size[::-1], "grey")


def pictures(page: Page) -> list[Image.Image]:
    sources = [attributes["src"] for attributes in page.all("img")]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    return [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    history = [
        {"step": 10, "epoch": 0.5, "loss": 9.0, "loss_cls": 2.0, "d0.loss_cls": 2.5, "learning_rate": 1e-4},
        {"step": 20, "epoch": 1.0, "loss": 7.0, "loss_cls": 1.0, "d0.loss_cls": 1.5, "learning_rate": 1e-5},
        {"step": 20, "epoch": 1.0, "eval_AP": 0.25, "eval_AP50": 0.5, "eval_AP75": 0.2},
    ]
    return write(random_images(0), tmp_path_factory.mktemp("report"), image_of=grey, history=history, title="Cells")


def test_the_numbers_are_on_the_page(page):
    images = random_images(0)
    metrics = coco_metrics(images, NAMES)
    for key in ("AP", "AP50", "AP75", "APs", "APl", "AR1", "AR100"):
        assert f"{metrics[key]:.3f}" in page.words
    for name in NAMES[:3]:
        assert f"{metrics['per_class'][name]['AP']:.3f}" in page.words
    assert page.all("title") and "Cells" in page.words
    assert f"Images {len(images)}" in page.words
    threshold = re.search(r"ddetr detect --threshold ([\d.]+) ", page.words)[1]
    above = sum((image.scores > np.float32(threshold)).sum() for image in images)
    assert f"Boxes above {threshold} {above} " in page.words


def test_the_page_needs_no_other(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("data:image/jpeg;", "#")), (tag, attributes)
    assert not page.all("link") and not page.all("iframe")
    assert not re.search(r"url\((?!#)", page.source) and "@import" not in page.source
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256("".join(page.scripts).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_the_page_can_be_heard(page):
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("img") and all(attributes["alt"] for attributes in page.all("img"))
    for attributes in page.all("svg"):
        assert attributes.get("aria-hidden") or (attributes["role"] == "img" and attributes["aria-label"])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    labelled = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert labelled <= set(ids)
    used = {attributes["xlink:href"][1:] for attributes in page.all("use")}
    assert used <= set(ids)


def test_every_class_with_objects_has_its_switch_and_its_curves(page):
    keys = {attributes["data-key"] for attributes in page.all("input")}
    assert keys == {"0", "1", "2"}
    lines = [attributes["data-key"] for attributes in page.all("g") if attributes.get("class") == "line"]
    # Three curves and the mark of the best threshold.
    assert all(lines.count(key) == 4 for key in (*keys, "all"))


def test_training_curves(page):
    lines = {attributes["data-key"] for attributes in page.all("g") if attributes.get("class") == "line"}
    assert {"loss", "loss_cls", "learning_rate", "eval_AP", "eval_AP50", "eval_AP75"} <= lines
    assert "d0.loss_cls" not in lines


def test_a_log_without_epochs_and_with_odd_values(tmp_path):
    history = [
        {"step": 1, "loss": float("nan"), "learning_rate": "none"},
        {"step": 2, "loss": 3.0, "epoch": None},
        {"loss": 5.0},
        {"step": 3, "loss": 2.0, "<b>loss_x": 1.0},
    ]
    page = write([one_image()], tmp_path, history=history)
    assert "Loss over steps" in page.source
    assert [a["data-key"] for a in page.all("g") if a.get("class") == "line" and a["data-key"] != "all"] == ["loss"]
    assert "learning_rate" not in page.words and "loss_x" not in page.source


def test_the_same_images_in_another_order_give_the_same_page(page, tmp_path):
    again = write(random_images(0)[::-1], tmp_path, image_of=grey, title="Cells")
    first = write(random_images(0), tmp_path, image_of=grey, title="Cells")
    assert again.source == first.source


def test_names_are_shown_and_do_nothing(tmp_path):
    images = [dataclasses.replace(image, file_name=HOSTILE[i % 4]) for i, image in enumerate(random_images(1))]
    errors = iter([OSError(HOSTILE[0]), ValueError(HOSTILE[1]), FileNotFoundError(2, "no", HOSTILE[3])])

    def image_of(image):
        if error := next(errors, None):
            raise error
        return grey(image)

    # The last class has objects too, so that its name stands everywhere.
    images.append(one_image([[0, 0, 9, 9]], labels=[3], true_boxes=[[0, 0, 9, 9]], true_labels=[3], image_id=7))
    page = write(images, tmp_path, HOSTILE, image_of=image_of, title=HOSTILE[0])
    plain = write(images, tmp_path, NAMES)
    assert page.scripts == plain.scripts and len(page.all("script")) == 1
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {"img"}
    assert page.words.count(HOSTILE[0]) > 3 and "{{ 7 * 7 }}" in page.words
    assert "\x00" not in page.source and "\u202e" not in page.source
    assert page.words.count("could not be read") == 3


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ([], NAMES),
        ([], ()),
        ([one_image()], NAMES),
        ([one_image(true_boxes=[[0, 0, 9, 9]])], NAMES),
        ([one_image([[0, 0, 9, 9]])], NAMES),
        ([one_image([[0, 0, 9, 9]], true_boxes=[[0, 0, 9, 9]])], NAMES[:1]),
        ([one_image([[0, 0, 9, 9]], true_boxes=[[0, 0, 99, 99]], crowd=[True])], NAMES),
        ([one_image([[5, 5, 5, 5]], [0.0], true_boxes=[[5, 5, 5, 5]])], NAMES),
    ],
    ids=["no images", "nothing", "empty image", "no boxes", "no truth", "perfect", "crowd", "box without area"],
)
def test_little_to_show(images, names, tmp_path):
    page = write(images, tmp_path, names, image_of=grey)
    assert "nan" not in page.words and "Kinds of error" in page.words
    assert ("no box is right" in page.words) == (not images or not len(images[0].true_boxes) or names != NAMES[:1])


def test_worst_and_best_images():
    true = [[0, 0, 20, 20], [30, 30, 50, 50], [60, 60, 80, 80]]
    images = [
        one_image(true, true_boxes=true, image_id=1),
        one_image(true[:1], true_boxes=true[:1], image_id=2),
        one_image([], true_boxes=true[:1], image_id=3),
        one_image([], true_boxes=true, image_id=4),
        one_image(true[:2], true_boxes=true, image_id=5),
        one_image(image_id=6),
    ]
    worst, best = choose_images(match(images), len(images), 0.3)
    assert [images[i].image_id for i in worst] == [4, 3, 5]
    assert [images[i].image_id for i in best] == [1, 2]
    # Above 0.85 only each image's first box is left.
    worst, best = choose_images(match(images), len(images), 0.85)
    assert [images[i].image_id for i in worst] == [4, 3, 1, 5]
    assert [images[i].image_id for i in best] == [2]


def test_real_images_are_drawn(samples, tmp_path):
    truth = json.loads((samples.parent / "annotations" / "blood_cells.json").read_text())
    images = []
    for entry in truth["images"]:
        rows = [row for row in truth["annotations"] if row["image_id"] == entry["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
        labels = [row["category_id"] - 1 for row in rows]
        size = (entry["height"], entry["width"])
        # All but the last object, by falling score.
        scores = np.linspace(0.9, 0.5, len(rows) - 1)
        found = (boxes[:-1], scores, labels[:-1])
        images.append(EvaluatedImage(entry["id"], entry["file_name"], size, *found, boxes, labels))
    names = [category["name"] for category in sorted(truth["categories"], key=lambda category: category["id"])]
    page = write(images, tmp_path, names, image_of=lambda image: Image.open(samples / image.file_name))
    drawn = pictures(page)
    assert [max(picture.size) for picture in drawn] == [SIDE] * 6
    assert all(image.file_name in page.words for image in images)
    assert "1 background" not in page.words
    # Truth and detections differ by one box, and both from the image itself.
    original = Image.open(samples / page.words[page.words.index("BloodImage") :].split()[0]).convert("RGB")
    for picture in drawn[:2]:
        plain = original.resize(picture.size, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(picture, dtype=int) - np.asarray(plain, dtype=int)).max() > 100
    assert drawn[0].tobytes() != drawn[1].tobytes()
    assert len(page.source) < 1_000_000


@pytest.mark.parametrize("size", [(1, 3000), (8, 8), (2000, 3)])
def test_odd_sizes_are_drawn(size, tmp_path):
    image = EvaluatedImage(1, "a", size, [[0, 0, 2, 2]], [0.9], [0], [[0, 0, size[1], size[0]]], [0])
    page = write([image], tmp_path, image_of=grey)
    assert len(pictures(page)) == 2
    assert all(min(picture.size) > 0 and max(picture.size) <= SIDE for picture in pictures(page))


def test_many_images_and_classes_stay_small(tmp_path):
    names = [f"class {i}" for i in range(80)]
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    images = random_images(3, 300, 80, elsewhere=60)
    page = write(images, tmp_path, names, image_of=lambda _: Image.fromarray(noise))
    assert len(page.all("img")) == 2 * (WORST + BEST)
    # Noise is the worst that JPEG can meet.
    assert len(page.source) < 6_000_000
    assert len(page.source) - sum(len(attributes["src"]) for attributes in page.all("img")) < 1_500_000
    assert f"{80 - IN_MATRIX + 1} other classes" in page.words
    assert 0 < page.words.count("taken for") <= CONFUSIONS


def test_settings_of_matplotlib_stay_as_they_were(tmp_path):
    before = dict(matplotlib.rcParams)
    write(random_images(2), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_importing_does_not_import_optional_packages():
    for file in Path(report.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                assert not {"matplotlib", "jinja2", "pycocotools"} & {str(name).split(".")[0] for name in names}


def test_no_threshold_is_advised_where_none_is_of_use(tmp_path):
    """Of many wrong boxes one is right: the best F1 is next to nothing."""
    boxes = [[0, 0, 9, 9], *[[50, 50, 60 + i % 30, 60] for i in range(99)]]
    image = one_image(boxes, [0.01, *[0.05] * 99], true_boxes=[[0, 0, 9, 9], *[[80, 80, 99, 99]] * 20])
    page = write([image], tmp_path)
    assert "No score threshold is of use: the best F1 of any is 0.0" in page.words
    assert "--threshold" not in page.words and useful_threshold([image]) == THRESHOLD


def test_another_threshold_is_not_the_one_that_is_advised(tmp_path):
    images = random_images(0)
    page = write(images, tmp_path, threshold=0.9)
    assert f"The threshold to use: ddetr detect --threshold {useful_threshold(images):g} " in page.words
    assert "Boxes above 0.9" in page.words and "below are those of the threshold 0.9" in page.words


@pytest.mark.parametrize(("own", "told"), [(None, False), (0.4, False), (0.51, True)])
def test_the_detectors_own_threshold_is_told_where_it_is_another(own, told):
    about = {**origin("cells"), "threshold": 0.4, "own_threshold": own, "device": "cpu", "dtype": "float32"}
    fact = page_facts(about).get("Threshold in its config")
    assert fact == ("0.51, with which ddetr detect begins" if told else None)


def test_the_page_tells_what_was_evaluated_and_what_was_left_out(tmp_path):
    facts = {"Evaluated": "2026-01-02 03:04 UTC", "Device": HOSTILE[0]}
    page = write([one_image()], tmp_path, facts=facts, left_out=["b.jpg: it is damaged"], threshold=0.42)
    assert "Evaluated 2026-01-02 03:04 UTC" in page.words and HOSTILE[0] in page.words
    assert "1 image left out b.jpg: it is damaged" in page.words and "a score above 0.42" in page.words


def test_the_last_evaluation_of_a_training_makes_no_spike_and_one_point_is_seen():
    history = [{"epoch": 1, "eval_AP": 0.1}, {"epoch": 2, "eval_AP": 0.3, "loss": 2.0}, {"epoch": 2, "eval_AP": 0.9}]
    (_, curve, _), (_, point, _) = training_plots(history)
    path = re.search(r'data-key="eval_AP">\s*<path d="([^"]*)"', curve)[1]
    assert len(re.findall("[ML]", path)) == 2  # the best weights' second evaluation is not drawn over the last epoch
    assert point.count("<use") > curve.count("<use")  # a dot
