"""The one form that every data set takes: splits of lazy images with their boxes, and one label map."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .defects import DataError, Defect, count_defects
from .label_map import LabelMap

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, eq=False, repr=False)
class DetectionData:
    """A detection data set, whatever its files looked like.

    Args:
        splits: of each split a `datasets.Dataset` with the columns of `features`; images are read when asked for.
        label_map: the classes, the same for all splits.
        source: where it came from.
        format: how it was read: coco, voc, yolo, azure or datasets.
        defects: what was found wrong. Those that lose an object or an image have been left out, and boxes that stand
            over the edge of their image clipped, when it was loaded with defects="skip".
    """

    splits: "dict[str, datasets.Dataset]"
    label_map: LabelMap
    source: str
    format: str
    defects: tuple[Defect, ...] = field(default=())

    def __getitem__(self, split: str) -> "datasets.Dataset":
        """One split by its name."""
        if split not in self.splits:
            raise DataError(f"{self.source} has no split {split!r}, but {', '.join(self.splits)}.")
        return self.splits[split]

    @property
    def coco_ids(self) -> tuple[int | str, ...]:
        """The classes' ids in files of COCO's form: a COCO file's own; of others from 1 on, as CVAT takes 0 for none.

        Example:
            >>> DetectionData({}, LabelMap(("can", "carton")), "", "yolo").coco_ids
            (1, 2)
        """
        ids = self.label_map.category_ids
        if self.format == "coco" or 0 not in ids or any(isinstance(number, str) for number in ids):
            return ids
        return tuple(int(number) + 1 for number in ids)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(dataset)}" for name, dataset in self.splits.items())
        defects = ", ".join(f"{kind} {count}" for kind, count in count_defects(self.defects).items())
        return f"DetectionData({self.format}: {sizes}; {len(self.label_map)} classes; defects: {defects or 'none'})"


def features(names: Sequence[str], source_ids: bool = False) -> "datasets.Features":
    """The columns of every split.

    `bbox` is x, y, width, height in pixels of the upright original image; `width` and `height` are of that image.
    `image_id` is the data set's own number of the image, or the order.

    Args:
        names: the class names, in the order of the model's labels.
        source_ids: with the column `source_id`, for a data set whose own ids of images are texts.
    """
    datasets = import_datasets()
    values = {name: datasets.Value(kind) for name, kind in (("float", "float32"), ("int", "int64"), ("flag", "int8"))}
    return datasets.Features(
        {
            "image_id": datasets.Value("int64"),
            **({"source_id": datasets.Value("string")} if source_ids else {}),
            "file_name": datasets.Value("string"),
            "image": datasets.Image(decode=False),
            "width": datasets.Value("int32"),
            "height": datasets.Value("int32"),
            "objects": {
                "id": datasets.List(values["int"]),
                "bbox": datasets.List(datasets.List(values["float"], length=4)),
                "category": datasets.List(datasets.ClassLabel(names=list(names))),
                "area": datasets.List(values["float"]),
                "iscrowd": datasets.List(values["flag"]),
            },
        }
    )


def split_every(dataset: "datasets.Dataset", n: int = 5) -> "datasets.DatasetDict":
    """Sends the first of every n images to validation and the others to train, both in their order.

    It is how Azure's sample splits the fridge objects: images 0, 5, 10, ... validate.

    Example:
        >>> import datasets
        >>> split_every(datasets.Dataset.from_dict({"image_id": range(7)}), 3)["validation"]["image_id"][:]
        [0, 3, 6]
    """
    datasets = import_datasets()
    if n < 2 or len(dataset) < 2:
        raise DataError(f"{len(dataset)} images cannot be split by {n}: both must be at least 2.")
    train = [index for index in range(len(dataset)) if index % n]
    validation = range(0, len(dataset), n)
    return datasets.DatasetDict({"train": dataset.select(train), "validation": dataset.select(validation)})


def import_datasets():
    """The `datasets` library, or one sentence on how to get it."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            'Data sets need the `datasets` library: pip install "deformable-detr-refine[train]".'
        ) from error
    return datasets


__all__ = ["DetectionData", "features", "import_datasets", "split_every"]
