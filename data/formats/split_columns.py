"""What a reader found in one split, as columns; and how they are checked and become a `datasets.Dataset`."""

from array import array
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling.image_io import as_text, image_size, is_url

from ..defects import (
    BOX_FORM,
    UNKNOWN_LABEL,
    UNREADABLE_ANNOTATION,
    UNREADABLE_IMAGE,
    BoxFault,
    DataError,
    Defect,
    box_faults,
    fault_text,
)
from ..label_map import LabelMap
from .box_form import FORMS, as_xywh, box_form
from .canonical_dataset import canonical_dataset
from .values import is_whole, side_of

if TYPE_CHECKING:
    import datasets


class SplitColumns:
    """Images and boxes of one split, in the order of the annotations; flat arrays, so that COCO's 860,000 fit.

    Args:
        name: the split's name.
        source: what its boxes stand in, for messages.
        form: what the four numbers of a box are, a key of `box_form.FORMS`.
        parts: they are parts of the upright image, 0..1, not its pixels.

    Attributes:
        declared: the classes that the split declares; None when its form declares none.
        category_names: the name of every category key that boxes use; a key that is missing here is an unknown label.
        images: an optional `datasets.Dataset` with the one column `image`, for images that are not files.
        defects: what the reader found wrong.
    """

    def __init__(self, name: str, source: str, form: str = "xywh", parts: bool = False):
        self.name, self.source, self.form, self.parts = name, source, form, parts
        self.declared: LabelMap | None = None
        self.category_names: dict[Hashable, str] = {}
        self.images: datasets.Dataset | None = None
        self.defects: list[Defect] = []
        self.file_names: list[str] = []
        self._image_ids: list[Any] = []
        self._paths: list[str | None] = []
        self._files: list[str] = []  # of the annotations, one an image
        self._sizes = array("q")
        self._lost = array("b")
        self._boxes = array("d")
        self._box_images = array("q")
        self._box_lines = array("q")
        self._box_ids: array | None = array("q")
        self._areas = array("d")
        self._crowd = array("b")
        self._unread: dict[int, int] = {}  # of images with unreadable annotations the first one's place in `defects`
        self._size_array: np.ndarray | None = None
        self._codes = array("q")
        self._code_of: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self.file_names)

    def add_image(
        self, file_name: str, path: str | None, width: Any, height: Any, file: str, image_id: Any = None
    ) -> int:
        """Adds an image, and gives its number.

        Args:
            file_name: its name in the data set.
            path: where it is (a path or an http URL); None for an image that cannot be used, of which the reader has
                noted a defect.
            width: of the upright image in pixels; what is no such number is read from the image's header.
            height: likewise.
            file: the file of its annotations.
            image_id: the data set's own id, if it has one.
        """
        self.file_names.append(as_text(file_name))
        self._paths.append(path and as_text(path))
        self._sizes.extend((side_of(width), side_of(height)))
        self._lost.append(path is None)
        self._files.append(file)
        self._image_ids.append(image_id)
        return len(self.file_names) - 1

    def add_box(
        self,
        image: int,
        box: array,
        category: Hashable,
        line: int,
        area: Any = None,
        crowd: Any = 0,
        box_id: Any = None,
    ) -> None:
        """Adds the box of an image.

        Args:
            image: the image's number.
            box: four numbers, as `form` and `parts` say.
            category: key of its class in `category_names`.
            line: line of the annotation in the image's file.
            area: of the object in pixels; width * height when it is no number.
            crowd: whether the box is around many objects (COCO's `iscrowd`).
            box_id: the data set's own id of the annotation.
        """
        self._boxes.extend(box)
        self._box_images.append(image)
        self._box_lines.append(line)
        self._areas.append(area if isinstance(area, int | float) and 0 <= area < 1e18 else np.nan)
        self._crowd.append(crowd in (1, True, "1", "true", "True"))
        self._codes.append(self._code_of.setdefault(category, len(self._code_of)))
        if self._box_ids is not None:
            if is_whole(box_id):
                self._box_ids.append(box_id)
            else:
                self._box_ids = None  # all are numbered anew

    def add_defect(
        self, kind: str, line: int | None, text: str, *, file: str, image: str = "", loses: str = "object"
    ) -> None:
        """Notes what is wrong at a line of a file of annotations, or with the whole of it."""
        where = as_text(file if line is None else f"{file}:{line}")
        self.defects.append(Defect(kind, where, printable(image), as_text(text), loses))

    def add_unreadable(self, image: int, line: int | None, text: str) -> None:
        """Notes an annotation that cannot be read; an image without any other is left out, for it is not empty."""
        self._unread.setdefault(image, len(self.defects))
        self.add_defect(UNREADABLE_ANNOTATION, line, text, file=self._files[image], image=self.file_names[image])

    def lose_image(self, image: int, line: int | None, text: str) -> None:
        """Notes that nothing of an image's annotations can be read, and leaves it out."""
        file, name = self._files[image], self.file_names[image]
        self.add_defect(UNREADABLE_ANNOTATION, line, text, file=file, image=name, loses="image")
        self._lost[image] = True

    @property
    def used_keys(self) -> list[Hashable]:
        """Category keys that boxes have."""
        return list(self._code_of)

    @property
    def used_names(self) -> set[str]:
        """Names of the classes that boxes have."""
        return {self.category_names[key] for key in self._code_of if key in self.category_names}

    def find_form(self) -> str:
        """The form of the boxes by `box_form`, which may also be "either".

        Raises:
            DataError: they are of a unit that their file is not known for.
        """
        boxes, sizes = self._in_pixels()
        there = (sizes > 0).all(1)
        areas = np.frombuffer(self._areas, np.float64)
        try:
            stated = None if np.isnan(areas[there]).any() else areas[there]
            return box_form(boxes[there], sizes[there], stated, self.form, self.parts)
        except DataError as error:
            raise DataError(f"{as_text(self.source)}: {error}") from error

    def take_form(self, form: str) -> None:
        """What `find_form` found, or what another split of the same data shows; notes it where it is not the stated."""
        stated = FORMS[self.form]
        other = " or ".join(FORMS[name] for name in ("xyxy", "xywh") if name != self.form)
        if form == "either":
            text = f"the boxes are taken for {stated}, but as {other} they would all lie in their images"
        else:
            text = f"the boxes are taken for {FORMS[form]}: as {stated} they cannot be meant"
        if form != self.form:
            self.add_defect(BOX_FORM, None, text, file=self.source, loses="")
        if form != "either":
            self.form = form

    def to_dataset(self, label_map: LabelMap, skip: bool) -> "datasets.Dataset":
        """Checks all, notes the defects in `defects`, and gives the rest in the canonical form.

        Args:
            label_map: classes of the data set; a box of another one is a defect.
            skip: boxes that stand over the edge are clipped.
        """
        self._lose_unread()
        sizes = self._image_sizes()
        lost = np.frombuffer(self._lost, np.int8).astype(bool)
        boxes = as_xywh(self._in_pixels()[0], self.form)
        image_of = np.frombuffer(self._box_images, np.int64)
        labels = self._labels(label_map)
        areas = np.frombuffer(self._areas, np.float64)

        faults = box_faults(boxes, sizes[image_of])
        there = ~lost[image_of]
        self._note_boxes(np.flatnonzero(there & ((faults > 0) | (labels < 0))), boxes, sizes, faults, labels)
        kept = there & (labels >= 0) & np.isin(faults, (BoxFault.NONE, BoxFault.PARTLY_OUTSIDE))
        areas = np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas)
        if skip:
            _clip(boxes, areas, sizes[image_of], np.flatnonzero(kept & (faults == BoxFault.PARTLY_OUTSIDE)))

        order = np.flatnonzero(kept)
        order = order[np.argsort(image_of[order], kind="stable")]
        objects = {
            "id": self._ids(),
            "bbox": boxes,
            "category": labels,
            "area": areas,
            "iscrowd": np.frombuffer(self._crowd, np.int8),
        }
        return canonical_dataset(
            self.name,
            label_map.names,
            self._image_ids,
            {"file_name": self.file_names, "width": sizes[:, 0], "height": sizes[:, 1]},
            {key: values[order] for key, values in objects.items()},
            np.bincount(image_of[order], minlength=len(self)),
            self._paths if self.images is None else self.images,
            lost,
        )

    def _in_pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 4) the boxes in their form, and (N, 2) width and height of their images."""
        boxes = np.frombuffer(self._boxes, np.float64).reshape(-1, 4)
        sizes = self._image_sizes()[np.frombuffer(self._box_images, np.int64)]
        return boxes * np.concatenate([sizes, sizes], axis=1) if self.parts else boxes, sizes

    def _lose_unread(self) -> None:
        """Leaves out images of which no annotation can be read."""
        read = set(self._box_images) if self._unread else ()
        for image, place in self._unread.items():
            if image not in read:
                self._lost[image] = True
                self.defects[place] = replace(self.defects[place], loses="image")

    def _image_sizes(self) -> np.ndarray:
        """(N, 2) width and height; where the annotation states none, from the image's header."""
        if self._size_array is not None:
            return self._size_array
        sizes = np.frombuffer(self._sizes, np.int64).reshape(-1, 2).copy()
        for image in np.flatnonzero((sizes < 1).any(1) & (np.frombuffer(self._lost, np.int8) == 0)):
            path, name = self._paths[image], printable(self.file_names[image])
            if path is None:
                continue  # it is lost already
            try:
                if is_url(path):
                    raise DataError(f"the annotation states no size of {name}, and images behind URLs are not fetched.")
                sizes[image] = image_size(path)
            except (OSError, ValueError) as error:
                self._lost[image] = True
                where, text = as_text(self._files[image]), printable(str(error).rstrip("."), 300)
                self.defects.append(Defect(UNREADABLE_IMAGE, where, name, text, "image"))
        self._size_array = sizes
        return sizes

    def _labels(self, label_map: LabelMap) -> np.ndarray:
        """(N,) the label of each box, -1 where the label map has none."""
        names = [self.category_names.get(key, "") for key in self._code_of]
        labels = np.array([label_map.label2id.get(name, -1) for name in names] or [-1], np.int64)
        return labels[np.frombuffer(self._codes, np.int64)]

    def _note_boxes(
        self, faulty: np.ndarray, boxes: np.ndarray, sizes: np.ndarray, faults: np.ndarray, labels: np.ndarray
    ) -> None:
        keys = list(self._code_of)
        for index in faulty.tolist():
            image = self._box_images[index]
            key = keys[self._codes[index]]
            name = self.category_names.get(key, str(key))
            fault = BoxFault(int(faults[index]))
            if labels[index] < 0:
                kind, loses = UNKNOWN_LABEL, "object"
                text = f"the label {printable(name)!r} is none of the data set's classes"
            else:
                kind, loses = fault.kind, fault.loses
                text = fault_text(fault, name, boxes[index], sizes[image])
            where = as_text(f"{self._files[image]}:{self._box_lines[index]}")
            self.defects.append(Defect(kind, where, printable(self.file_names[image]), text, loses))

    def _ids(self) -> np.ndarray:
        if self._box_ids is not None:
            ids = np.frombuffer(self._box_ids, np.int64)
            if len(np.unique(ids)) == len(ids):
                return ids
        return np.arange(1, len(self._codes) + 1)  # from 1: COCOeval takes an object of id 0 for none


def _clip(boxes: np.ndarray, areas: np.ndarray, sizes: np.ndarray, rows: np.ndarray) -> None:
    """Cuts the boxes of these rows at the edges of their images, in place."""
    low = boxes[rows, :2].clip(0)
    high = np.minimum(boxes[rows, :2] + boxes[rows, 2:], sizes[rows])
    boxes[rows] = np.concatenate([low, high - low], axis=1)
    areas[rows] = np.minimum(areas[rows], boxes[rows, 2] * boxes[rows, 3])


__all__ = ["SplitColumns"]
