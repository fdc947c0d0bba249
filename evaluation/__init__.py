"""How good a detector is: COCO metrics, Azure ML metrics, curves and a report."""

from pathlib import Path


def metric_path() -> str:
    """The file of COCO's metrics as a module of Hugging Face's `evaluate` library; no network is needed.

    Example:
        >>> Path(metric_path()).name
        'detection_metric.py'

        metric = evaluate.load(metric_path())
        metric.add_batch(predictions=[{"boxes", "scores", "labels"}], references=[{"boxes", "labels"}])
        metric.compute(names=["can", "carton"])
    """
    return str(Path(__file__).parent / "metrics" / "detection_metric.py")


__all__ = ["metric_path"]
