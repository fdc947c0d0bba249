"""How good a detector is: COCO metrics, Azure ML metrics, curves and a report."""
