"""Classes of a data set and of a model meet by name."""

import pytest

from deformable_detr_refine.data.defects import DataError

datasets = pytest.importorskip("datasets")
from deformable_detr_refine.data.detection_data import features  # noqa: E402
from deformable_detr_refine.evaluation.class_names import RelabelledData  # noqa: E402

NAMES = ("apple", "pear", "plum")


@pytest.fixture(scope="module")
def split():
    """Two apples and a pear; an image without objects; one plum."""
    labels = [[0, 1, 0], [], [2]]
    rows = {
        "image_id": [7, 8, 9],
        "file_name": ["a.jpg", "b.jpg", "c.jpg"],
        "image": [{"bytes": b"", "path": None}] * 3,
        "width": [64, 48, 64],
        "height": [32, 32, 32],
        "objects": [
            {
                "id": [10 * i + j for j in range(len(part))],
                "bbox": [[float(j), 0.0, 4.0, 4.0] for j in range(len(part))],
                "category": part,
                "area": [16.0] * len(part),
                "iscrowd": [j % 2 for j in range(len(part))],
            }
            for i, part in enumerate(labels)
        ],
    }
    return datasets.Dataset.from_dict(rows, features=features(NAMES))


def test_labels_become_the_models(split):
    rows = RelabelledData(split, NAMES, ["plum", "kiwi", "pear", "apple"])
    assert [row["objects"]["category"] for row in rows] == [[3, 2, 3], [], [0]]
    assert [{**row["objects"], "category": 0} for row in rows] == [{**row["objects"], "category": 0} for row in split]
    assert len(rows) == 3 and rows.left_out == {}
    assert rows["width"][:] == [64, 48, 64]
    assert split[0]["objects"]["category"] == [0, 1, 0]


def test_objects_that_the_model_cannot_know_are_an_error_or_left_out(split):
    with pytest.raises(DataError, match=r"does not know: apple \(2\), plum \(1\)\. Only the model knows: Apple\."):
        RelabelledData(split, NAMES, ["Apple", "pear"])
    rows = RelabelledData(split, NAMES, ["Apple", "pear"], skip_unknown=True)
    assert rows.left_out == {"apple": 2, "plum": 1}
    kept = {"id": [1], "bbox": [[1.0, 0.0, 4.0, 4.0]], "category": [1], "area": [16.0], "iscrowd": [1]}
    assert [row["objects"] for row in rows] == [kept, {key: [] for key in kept}, {key: [] for key in kept}]


def test_no_name_in_common_is_always_an_error(split):
    with pytest.raises(DataError, match="does not know: apple"):
        RelabelledData(split, NAMES, ["LABEL_0", "LABEL_1"], skip_unknown=True)


def test_classes_without_objects_do_no_harm(split):
    assert len(RelabelledData(split.select([1]), NAMES, ["kiwi"])) == 1
