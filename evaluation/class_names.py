"""A data set seen with the labels of a model: classes meet by name, whatever their order and ids on either side."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.messages import printable

if TYPE_CHECKING:
    import datasets


class RelabelledData(Sequence):
    """The rows of a split with the model's label of each object in `objects["category"]`.

    Classes that only the model knows, or that only the data set declares, do no harm. Objects of classes that the model
    does not know could never be found.

    Args:
        dataset: a split in the package's form.
        names: the data set's class names, by its labels.
        model_names: the model's class names, by its labels.
        skip_unknown: leave such objects out (`left_out` counts them by name) instead of raising.

    Raises:
        DataError: the data set holds objects of classes that the model does not know, or none that it knows.
    """

    def __init__(
        self, dataset: "datasets.Dataset", names: Sequence[str], model_names: Sequence[str], skip_unknown: bool = False
    ):
        self.dataset = dataset
        labels = {name: label for label, name in enumerate(model_names)}
        self.labels = [labels.get(name, -1) for name in names]
        objects = _count_objects(dataset, names)
        self.left_out = {name: count for name, count in objects.items() if name not in labels}
        if self.left_out and (not skip_unknown or len(self.left_out) == len(objects)):
            unknown = ", ".join(f"{printable(name)} ({count})" for name, count in sorted(self.left_out.items()))
            unmet = sorted(set(model_names) - set(names))
            raise DataError(
                f"The data set holds objects of classes that the model does not know: {unknown}. "
                + (f"Only the model knows: {', '.join(map(printable, unmet))}. " if unmet else "")
                + "Names must be equal to the letter; rename them on one side, or give the data set that the model was "
                "trained for."
            )

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def column_names(self) -> list[str]:
        """As of `datasets.Dataset`: `rows["width"]` gives a column without reading images."""
        return self.dataset.column_names

    def __getitem__(self, index: int | str) -> Any:
        if isinstance(index, str):
            return self.dataset[index]
        row = cast("Mapping[str, Any]", self.dataset[index])  # datasets says 'or a list', whatever the index
        objects = row["objects"]
        labels = [self.labels[label] for label in objects["category"]]
        kept = [i for i, label in enumerate(labels) if label >= 0]
        objects = {**objects, "category": labels}
        return {**row, "objects": {key: [values[i] for i in kept] for key, values in objects.items()}}


def _count_objects(dataset: "datasets.Dataset", names: Sequence[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    batches = cast("Iterable[Mapping[str, list[dict[str, list[int]]]]]", dataset.select_columns("objects").iter(1000))
    for batch in batches:
        for objects in batch["objects"]:
            counts.update(names[label] for label in objects["category"])
    return counts


__all__ = ["RelabelledData"]
